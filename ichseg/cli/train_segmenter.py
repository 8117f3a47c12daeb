"""``ichseg train-segmenter``: the U-Net of the paper's way."""

from __future__ import annotations

import argparse
from pathlib import Path

from ichseg.cli.options import datalist_option, training_options, training_overrides
from ichseg.errors import DONE

HELP = "Train the U-Net on pseudo-masks; resumes where it left off."
EXAMPLE = "ichseg train-segmenter --datalist DATA/datalist.json --pseudo-labels runs/pseudo --output runs/unet"


def add_options(parser: argparse.ArgumentParser) -> None:
    datalist_option(parser)
    parser.add_argument(
        "--pseudo-labels", metavar="DIR", help="output of pseudo-label (default: the datalist's own masks)"
    )
    parser.add_argument("--output", required=True, metavar="DIR")
    training_options(parser)


def run(args: argparse.Namespace) -> int:
    overrides = training_overrides(args)
    overrides["output_dir"] = Path(args.output).resolve()
    overrides["pseudo_dir"] = None if args.pseudo_labels is None else Path(args.pseudo_labels).resolve()
    overrides["supervision"] = "masks" if args.pseudo_labels is None else "pseudo"
    from ichseg.bundle import run_bundle

    run_bundle("ich_segmentation", "train_paper.yaml", overrides, args.set)
    print(f"wrote {Path(args.output) / 'model.pt'}")
    return DONE
