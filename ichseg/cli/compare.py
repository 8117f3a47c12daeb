"""``ichseg compare``: published methods on one's own data, under one protocol."""

from __future__ import annotations

import argparse
from pathlib import Path

from ichseg.cli.options import datalist_option, device_options, fold_options, progress
from ichseg.defaults import COMPARED_EPOCHS, COMPARED_SIZE, MASK_ARCHITECTURES, METHODS, TEST_FOLDS
from ichseg.errors import DONE, SOME_FAILED, IchsegError

HELP = "Train published methods on the same scans and compare their masks: DIR/comparison.csv, .md and pictures."
EXAMPLE = """ichseg compare --datalist DATA/datalist.json --output runs/compared
  ichseg compare --datalist DATA/datalist.json --output runs/compared --methods recommended,hgi_sam,unet --epochs 5
  (to add methods, run again with them: finished ones are kept; an interrupted run resumes)"""


def add_options(parser: argparse.ArgumentParser) -> None:
    datalist_option(parser, "datalist with slice labels; if it has masks, results are compared with them")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument(
        "--methods", default=",".join(METHODS), metavar="NAME,...", help=f"some of {', '.join(METHODS)} (default: all)"
    )
    parser.add_argument(
        "--implants", metavar="FILE",
        help="datalist of 'ichseg prepare implants' with drawn hemorrhage in scans of the test folds; adds their Dice",
    )  # fmt: skip
    parser.add_argument("--controls", action="store_true", help="also run every method with untrained networks")
    parser.add_argument("--size", type=int, default=COMPARED_SIZE, help="pixels per side (default: %(default)s)")
    parser.add_argument(
        "--epochs", type=int, default=COMPARED_EPOCHS, help="maximum epochs per network (default: %(default)s)"
    )
    fold_options(parser)
    parser.add_argument("--test-folds", default=TEST_FOLDS, help="test folds (default: %(default)s)")
    parser.add_argument(
        "--architecture", choices=MASK_ARCHITECTURES, default=MASK_ARCHITECTURES[0],
        help="U-Net that learns from pseudo-masks (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    device_options(parser)


def run(args: argparse.Namespace) -> int:
    from ichseg.data.datalist import load_datalist

    names = [name.strip() for name in args.methods.split(",") if name.strip()]
    if unknown := [name for name in names if name not in METHODS]:
        raise IchsegError(f"method '{unknown[0]}' is unknown; choose from {', '.join(METHODS)}")
    load_datalist(args.datalist)  # wrong in a second rather than after MONAI's five
    from ichseg.comparison import Bench, compare
    from ichseg.presets import Plan

    plan = Plan(
        Path(args.datalist).resolve(), Path(args.output).resolve(), args.train_folds, args.val_folds, args.test_folds,
        seed=args.seed, device=args.device, precision=args.precision, progress=progress,
    )  # fmt: skip
    implants = Path(args.implants).resolve() if args.implants else None
    rows = compare(Bench(plan, args.size, args.epochs, args.architecture), names, args.controls, implants)
    print((plan.output / "comparison.md").read_text(encoding="utf-8"))
    print(f"wrote comparison.csv, .md and pictures in {args.output}")
    return SOME_FAILED if any(row["note"] for row in rows) else DONE
