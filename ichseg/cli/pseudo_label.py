"""``ichseg pseudo-label``: pseudo-masks from trained classifiers."""

from __future__ import annotations

import argparse
from pathlib import Path

from ichseg.cli.options import datalist_option, run_options
from ichseg.defaults import BACKBONES, PAPER_THRESHOLD
from ichseg.errors import DONE, IchsegError

HELP = "Generate pseudo-masks with trained classifiers: DIR/NAME_pseudo.nii.gz."
EXAMPLE = "ichseg pseudo-label --datalist DATA/datalist.json --classifiers runs/classifiers --output runs/pseudo"


def add_options(parser: argparse.ArgumentParser) -> None:
    datalist_option(parser)
    parser.add_argument("--classifiers", required=True, metavar="DIR", help="output folder of train-classifier")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument(
        "--backbone",
        action="append",
        choices=BACKBONES,
        help="classifier to use; can be repeated (default: all in the folder)",
    )
    parser.add_argument("--folds", help="only these folds, e.g. 0-2 or 3,4")
    parser.add_argument("--threshold", type=float, help=f"threshold for the fused maps (default: {PAPER_THRESHOLD})")
    parser.add_argument("--overwrite", action="store_true", help="redo every scan, even those already done")
    parser.add_argument("--size", type=int, help="pixels per side (default: as in training)")
    run_options(parser)


def run(args: argparse.Namespace) -> int:
    folder = Path(args.classifiers)
    found = {
        b: (folder / b / "model.pt").resolve()
        for b in args.backbone or BACKBONES
        if args.backbone or (folder / b / "model.pt").is_file()
    }
    if not found:
        raise IchsegError(f"{folder}: no <backbone>/model.pt in this folder; run 'ichseg train-classifier' first")
    from ichseg.bundle import run_bundle
    from ichseg.data.datalist import load_datalist

    load_datalist(args.datalist)  # wrong in a second rather than after MONAI's five
    overrides = {
        "datalist": Path(args.datalist).resolve(),
        "output_dir": Path(args.output).resolve(),
        "classifiers": found,
        "overwrite": args.overwrite,
        "folds": args.folds,
        "threshold": args.threshold,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "device_name": args.device,
        "size": args.size,
    }
    run_bundle("ich_pseudo_segmentation", "inference.yaml", overrides, args.set)
    return DONE
