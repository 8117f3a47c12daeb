"""``ichseg estimate``: time, memory, disk and money for a folder of scans, from a few of them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ichseg.cli.options import backend_option, run_options
from ichseg.errors import DONE

HELP = "Measure a few scans of a folder and estimate what segmenting all of it will take: hours, memory, disk, money."
EXAMPLE = """ichseg estimate SCANS
  ichseg estimate SCANS --sample 20 --machines 50 --price 0.08
  ichseg estimate SCANS --device cuda --json"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="INPUT", nargs="+", help="as for 'ichseg segment', but no URLs")
    parser.add_argument("--weights", metavar="FILE", help="weight file (default: the model shipped with ichseg)")
    parser.add_argument("--sample", type=int, default=10, metavar="N", help="scans to measure (default: %(default)s)")
    parser.add_argument(
        "--machines", type=int, default=1, metavar="N", help="machines like this one to share the work (default: 1)"
    )
    parser.add_argument("--price", type=float, default=0.0, metavar="P", help="price of one machine per hour")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of text")
    backend_option(parser)
    run_options(parser)


def run(args: argparse.Namespace) -> int:
    import logging
    import time

    from ichseg.late import import_monai

    begun = time.perf_counter()
    import_monai()
    from ichseg.bundle import weight_file
    from ichseg.folder.estimate import estimate, estimate_text
    from ichseg.logs import hush_monai, quieter
    from ichseg.networks import segmenter_settings

    imported_s = time.perf_counter() - begun
    hush_monai()
    inputs = [Path(one).absolute() for one in args.input]
    weights = weight_file(args.weights).resolve()
    config = segmenter_settings(weights).pipeline
    values = {
        "dataset_dir": inputs[0] if len(inputs) == 1 else inputs,
        "weights": weights,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "backend": args.backend,
        "device_name": args.device,
    }
    with quieter(logging.WARNING, "ichseg.folder.runner", "ichseg.devices"):  # masks and report are thrown away
        found = estimate(inputs, values, args.sample, args.machines, args.price, config=config, settings=args.set,
                         imported_s=imported_s)  # fmt: skip
    print(json.dumps(found) if args.json else estimate_text(found))
    return DONE
