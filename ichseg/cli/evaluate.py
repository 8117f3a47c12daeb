"""``ichseg evaluate``: masks against true masks and slice labels."""

from __future__ import annotations

import argparse
from pathlib import Path

from ichseg.cli.options import progress
from ichseg.defaults import CONNECTIVITIES, CONNECTIVITY, TOLERANCE_MM
from ichseg.errors import DONE, IchsegError

HELP = "Compare masks with true masks and, where there are any, with slice labels."
EXAMPLE = """ichseg evaluate MASKS DATA/datalist.json --output DIR
  ichseg evaluate MASKS TRUE_MASKS --images SCANS --output DIR"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "predictions", metavar="PREDICTIONS", help="folder of NAME_ich.nii.gz, NAME_pseudo.nii.gz or NAME.nii.gz"
    )
    parser.add_argument("truth", metavar="TRUTH", help="datalist.json, or a folder of true masks NAME.nii.gz")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder for the tables and charts; with slice labels also detection.json, "
        "detection_slices.csv and gallery.png",
    )
    parser.add_argument("--images", metavar="DIR", help="with a folder of true masks: the scans, for the HU rule")
    parser.add_argument("--folds", help="only these folds of the datalist, e.g. 3-4")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="only these cases")
    parser.add_argument(
        "--connectivity",
        type=int,
        default=CONNECTIVITY,
        choices=CONNECTIVITIES,
        help="connectivity of lesions: 4 or 8 in slices, 6, 18 or 26 in volumes (default: %(default)s)",
    )
    parser.add_argument(
        "--tolerance-mm", type=float, default=TOLERANCE_MM, help="tolerance of the surface Dice (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    from ichseg.data.datalist import load_datalist
    from ichseg.evaluation import evaluate_masks, evaluate_slices, print_evaluation

    options = {"output": args.output, "folds": args.folds, "cases": args.cases, "progress": progress}
    if not 0 <= args.tolerance_mm < float("inf"):
        raise IchsegError(f"--tolerance-mm must be a non-negative number of millimeters, not {args.tolerance_mm}")
    masked, labeled = Path(args.truth).is_dir(), False
    if not masked:
        if args.images is not None:
            raise IchsegError("--images is for a folder of true masks; a datalist names its scans")
        scans = load_datalist(args.truth, args.folds, cases=args.cases)
        masked = any("label" in scan for scan in scans)
        labeled = all("slice_labels" in scan for scan in scans)
    if not masked and not labeled:
        raise IchsegError(f"{args.truth}: no scan has a mask (key 'label') or slice labels; nothing to compare with")
    if masked:
        more = {"images": args.images, "connectivity": args.connectivity, "tolerance_mm": args.tolerance_mm}
        print_evaluation(evaluate_masks(args.predictions, args.truth, **options, **more))
        print()
    if labeled:
        for name, value in evaluate_slices(args.predictions, args.truth, **options).items():
            shown = f"{value:>12.3f}" if isinstance(value, float) else f"{value:>12d}"
            print(f"{name.replace('_', ' '):26s}{shown}")
        if not masked:
            print("(the datalist has no masks (key 'label'); only slice labels are compared)")
    return DONE
