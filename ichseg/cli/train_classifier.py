"""``ichseg train-classifier``: the slice classifiers of the paper's way."""

from __future__ import annotations

import argparse
from pathlib import Path

from ichseg.cli.options import datalist_option, training_options, training_overrides
from ichseg.defaults import BACKBONES, PAPER_PAIR
from ichseg.errors import DONE, IchsegError

HELP = "Train slice classifiers from slice labels; resumes where it left off."
EXAMPLE = "ichseg train-classifier --datalist DATA/datalist.json --output runs/classifiers --size 256 --epochs 20"


def add_options(parser: argparse.ArgumentParser) -> None:
    datalist_option(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="output folder, one subfolder per backbone")
    parser.add_argument(
        "--backbone",
        action="append",
        choices=BACKBONES,
        help=f"can be repeated (default: the paper's pair, {' and '.join(PAPER_PAIR)})",
    )
    training_options(parser)


def run(args: argparse.Namespace) -> int:
    overrides = training_overrides(args)
    backbones = args.backbone or PAPER_PAIR
    if len(backbones) > 1 and any(setting.startswith("init_weights=") for setting in args.set):
        raise IchsegError("init_weights is for one network: give a single --backbone with it")
    from ichseg.bundle import run_bundle

    for backbone in backbones:
        folder = Path(args.output).resolve() / backbone
        values = {**overrides, "backbone": backbone, "output_dir": folder}
        run_bundle("ich_slice_classification", "train.yaml", values, args.set)
        print(f"wrote {Path(args.output) / backbone / 'model.pt'}")
    return DONE
