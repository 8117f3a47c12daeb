"""``ichseg measure``: volumes, lesions and diameters of masks."""

from __future__ import annotations

import argparse

from ichseg.cli.options import progress
from ichseg.errors import DONE, SOME_FAILED

HELP = "Measure existing masks: volume in mL, lesions, ABC/2, and, given the scans, the side."
EXAMPLE = "ichseg measure MASKS --output DIR\n  ichseg measure MASKS --images SCANS --output DIR"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("masks", metavar="MASKS", help="folder of masks, or a single file; above 0 is hemorrhage")
    parser.add_argument("--images", metavar="SCANS", help="their scans, needed to tell left from right")
    parser.add_argument("--output", metavar="DIR", help="folder for measures.csv and measures.jsonl")


def run(args: argparse.Namespace) -> int:
    from ichseg.folder.measure_masks import measure_folder

    results = measure_folder(args.masks, args.output, args.images, progress)
    print(results.text())
    if args.output:
        print(f"wrote measures.csv and measures.jsonl in {args.output}")
    return SOME_FAILED if results.count("failed") else DONE
