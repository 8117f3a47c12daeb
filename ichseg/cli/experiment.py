"""``ichseg experiment``: the tables and figures of the paper."""

from __future__ import annotations

import argparse

from ichseg.cli.options import datalist_option, device_options, fold_options, progress, set_option
from ichseg.defaults import EXPERIMENTS, MASK_ARCHITECTURES, PAPER_EPOCHS, PAPER_SIZE, TEST_FOLDS
from ichseg.errors import DONE

HELP = "Reproduce a table or figure of the paper: DIR/NAME.csv, .md and .png, next to the published results."
EXAMPLE = """ichseg experiment table4 --datalist DATA/datalist.json --output DIR --size 256 --epochs 20
  ichseg experiment figure8 --datalist DATA/datalist.json --output DIR --size 256 --epochs 20
  (with the same DIR, classifiers and maps are made once; an interrupted run resumes)"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=EXPERIMENTS, metavar="NAME", help=", ".join(EXPERIMENTS))
    datalist_option(parser, "some scans must have masks")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--benchmark", metavar="JSON", help="second datalist, evaluated separately")
    parser.add_argument("--classifiers", metavar="DIR", help="folder of trained classifiers; skips their training")
    parser.add_argument("--size", type=int, default=PAPER_SIZE, help="pixels per side (default: %(default)s)")
    parser.add_argument(
        "--epochs", type=int, default=PAPER_EPOCHS, help="maximum epochs per training (default: %(default)s)"
    )
    fold_options(parser)
    parser.add_argument("--test-folds", default=TEST_FOLDS, help="test folds (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, help="in training (default: the configs')")
    parser.add_argument(
        "--architecture", choices=MASK_ARCHITECTURES, default=MASK_ARCHITECTURES[0], help="U-Net (default: %(default)s)"
    )
    device_options(parser)
    set_option(parser, "change a value of the pseudo-mask bundle's config in every row, e.g. gate_by=label")


def run(args: argparse.Namespace) -> int:
    from ichseg.data.datalist import load_datalist

    load_datalist(args.datalist)  # wrong in a second rather than after MONAI's five
    from ichseg.experiments import Study, run_experiment

    values = {key: value for key, value in vars(args).items() if key in Study.__dataclass_fields__}
    study = Study(**values, settings=args.set, progress=progress)
    print(run_experiment(args.name, study))
    print(f"wrote {args.name}.csv, .md and .png in {args.output}")
    return DONE
