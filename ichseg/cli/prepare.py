"""``ichseg prepare``: data sets, one subcommand each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ichseg.cli.options import given, note, progress
from ichseg.defaults import (
    COMPACT_SIZE,
    FOLD_TOLERANCE,
    HELD_OUT_FOLDS,
    IMPLANT_FAMILIES,
    IMPLANTS_PER_SCAN,
    PHANTOM_SIZE,
    PHANTOM_SLICES,
    PHANTOMS,
    RATER_RULES,
    VOC_CLASSES,
)
from ichseg.errors import DONE

HELP = "Prepare a data set: images, labels, slice_labels.csv and datalist.json."
EXAMPLE = """ichseg prepare bcihm DOWNLOAD DATA
  ichseg prepare nifti SCANS LABELS.csv DATA
  ichseg prepare dicom STUDIES LABELS.csv DATA                     columns SOPInstanceUID,hemorrhage
  ichseg prepare phantom DATA --scans 10
  ichseg prepare implants DATA/datalist.json IMPLANTS --folds 3,4
  ichseg prepare compact DATA/datalist.json SMALL --size 384      a small copy, to train elsewhere"""


def add_options(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")

    def kind(name: str, make: Callable[..., dict[str, int]], text: str, *paths: str) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=text, description=text)
        for path in paths:
            sub.add_argument(path.lower().partition(".")[0], metavar=path)
        sub.add_argument("output", metavar="OUTPUT", help="a new or empty folder")
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
        sub.set_defaults(make=make)
        return sub

    bcihm = kind("bcihm", _bcihm, "BCIHM, the PhysioNet data set ct-ich", "SOURCE")
    bcihm.add_argument("--masks", metavar="DIR", help="version 1.0.0: more slice masks NNN_S.png")
    bcihm.add_argument("--spacing", metavar="CSV", help="version 1.0.0: table of in-plane spacing")
    bhsd = kind("bhsd", _bhsd, "BHSD, 192 scans with masks of five subtypes", "SOURCE")
    bhsd.add_argument(
        "--group-by",
        choices=["patient", "scan"],
        default="patient",
        help="what to keep in one fold",
    )
    bhsd.add_argument(
        "--labels-at",
        type=int,
        metavar="PIXELS",
        help="resize masks to PIXELS x PIXELS before labeling slices by them (default: native size)",
    )
    instance = kind("instance", _instance, "INSTANCE 2022, 100 scans with masks", "SOURCE")
    cq500 = kind("seq-cq500", _seq_cq500, "Seq-CQ500, slices of CQ500 with masks", "SOURCE")
    mbh = kind("mbh-seg", _mbh_seg, "MBH-Seg 2025, scans outlined by several raters", "SOURCE")
    mbh.add_argument(
        "--raters", default=RATER_RULES[0], metavar="RULE", help=f"{', '.join(RATER_RULES)}, or a rater's number "
        "(default: %(default)s)"
    )  # fmt: skip
    masked = kind("masked", _masked, "any folder of NIfTI scans with masks of the same names", "SCANS", "MASKS")
    masked.add_argument(
        "--codes", default="1", metavar="CODES", help="what mask values mean, e.g. 1=IPH,2=IVH (default: 1, hemorrhage)"
    )
    siim = kind("siim", _siim, "SIIM-ACR pneumothorax, chest X-rays with masks", "SOURCE")
    voc = kind("voc2012", _voc2012, "PASCAL VOC 2012, one class against the others", "SOURCE")
    voc.add_argument("--class", dest="name", choices=VOC_CLASSES, default="person", metavar="NAME",
                     help=f"one of {', '.join(VOC_CLASSES)} (default: %(default)s)")  # fmt: skip
    rsna = kind("rsna", _rsna, "RSNA 2019, DICOM slices with labels and subtypes", "SOURCE")
    rsna.add_argument("--scans", type=int, metavar="N", help="convert only the first N scans")
    nifti = kind("nifti", _nifti, "your own NIfTI scans and a CSV of slice labels", "SCANS", "LABELS.csv")
    nifti.add_argument("--masks", metavar="DIR", help="folder of true masks NAME.nii.gz, for evaluation")
    dicom = kind("dicom", _dicom, "your own DICOM studies and a CSV of slice labels", "STUDIES", "LABELS.csv")
    dicom.add_argument(
        "--series",
        default="best",
        metavar="RULE",
        help="series of each study: best (default), all, or a SeriesNumber or SeriesInstanceUID",
    )
    for sub in (bhsd, instance, cq500, mbh, masked, siim, voc, rsna, nifti, dicom):
        sub.add_argument(
            "--fold-tolerance",
            type=float,
            default=FOLD_TOLERANCE,
            help="fold imbalance that is accepted without a warning (default: %(default)s)",
        )
    phantom = kind("phantom", _phantom, "synthetic heads with synthetic hemorrhage")
    phantom.add_argument("--scans", type=int, default=PHANTOMS, help="number of phantoms (default: %(default)s)")
    phantom.add_argument("--size", type=int, default=PHANTOM_SIZE, help="pixels per side (default: %(default)s)")
    phantom.add_argument("--slices", type=int, default=PHANTOM_SLICES, help="slices per phantom (default: %(default)s)")
    implants = kind("implants", _implants, "hemorrhage implanted into real scans that have none", "DATALIST")
    implants.add_argument("--folds", default=HELD_OUT_FOLDS, help="folds of the scans to use (default: %(default)s)")
    implants.add_argument(
        "--per-scan", type=int, default=IMPLANTS_PER_SCAN, help="variants per scan (default: %(default)s)"
    )
    implants.add_argument(
        "--family",
        choices=IMPLANT_FAMILIES,
        default=IMPLANT_FAMILIES[0],
        help="shapes, as in training (default), or fields, never used in training",
    )
    for sub in (phantom, implants):
        sub.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    compact = kind("compact", _compact, "a copy of a data set with fewer pixels and 8-bit voxels", "DATALIST")
    compact.add_argument("--size", type=int, default=COMPACT_SIZE, help="pixels per side (default: %(default)s)")
    compact.add_argument("--folds", help="folds to copy (default: all)")


def run(args: argparse.Namespace) -> int:
    counts = args.make(args, Path(args.output))
    print(", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in counts.items()))
    print(f"wrote {Path(args.output) / 'datalist.json'}")
    return DONE


def _bcihm(args: argparse.Namespace, output: Path) -> dict[str, int]:
    from ichseg.data import prepare_bcihm

    return prepare_bcihm(args.source, output, args.masks, args.spacing, progress=progress, warn=note)


def _bhsd(args: argparse.Namespace, output: Path) -> dict[str, int]:
    from ichseg.data import prepare_bhsd

    options = given(args, "group_by", "labels_at", "fold_tolerance")
    return prepare_bhsd(args.source, output, progress=progress, warn=note, **options)


def _instance(args: argparse.Namespace, output: Path) -> dict[str, int]:
    from ichseg.data import prepare_instance

    return prepare_instance(args.source, output, progress=progress, warn=note, **given(args, "fold_tolerance"))


def _seq_cq500(args: argparse.Namespace, output: Path) -> dict[str, int]:
    from ichseg.data import prepare_seq_cq500

    return prepare_seq_cq500(args.source, output, progress=progress, warn=note, **given(args, "fold_tolerance"))


def _mbh_seg(args: argparse.Namespace, output: Path) -> dict[str, Any]:
    from ichseg.data import prepare_mbh_seg

    options = given(args, "raters", "fold_tolerance")
    return prepare_mbh_seg(args.source, output, progress=progress, warn=note, **options)


def _masked(args: argparse.Namespace, output: Path) -> dict[str, int]:
    from ichseg.data import prepare_nifti_masks

    options = given(args, "fold_tolerance")
    return prepare_nifti_masks(
        args.scans, args.masks, output, _codes(args.codes), progress=progress, warn=note, **options
    )


def _codes(text: str) -> dict[int, str | None]:
    """``1=IPH,2=IVH`` or ``1``."""
    from ichseg.data.subtypes import SUBTYPE_ORDER
    from ichseg.errors import IchsegError

    codes: dict[int, str | None] = {}
    for part in text.split(","):
        number, _, name = part.partition("=")
        if not number.strip().isdigit() or not int(number) or name.strip() not in ("", *SUBTYPE_ORDER):
            raise IchsegError(f"--codes {text}: expected CODE or CODE=SUBTYPE with one of {', '.join(SUBTYPE_ORDER)}")
        codes[int(number)] = name.strip() or None
    return codes


def _siim(args: argparse.Namespace, output: Path) -> dict[str, int]:
    from ichseg.data import prepare_siim

    return prepare_siim(args.source, output, progress=progress, warn=note, **given(args, "fold_tolerance"))


def _voc2012(args: argparse.Namespace, output: Path) -> dict[str, int]:
    from ichseg.data import prepare_voc2012

    options = given(args, "name", "fold_tolerance")
    return prepare_voc2012(args.source, output, progress=progress, warn=note, **options)


def _rsna(args: argparse.Namespace, output: Path) -> dict[str, int]:
    from ichseg.data import prepare_rsna

    options = given(args, "scans", "fold_tolerance")
    return prepare_rsna(args.source, output, progress=progress, warn=note, **options)


def _nifti(args: argparse.Namespace, output: Path) -> dict[str, int]:
    from ichseg.data import prepare_nifti

    options = given(args, "fold_tolerance", "masks")
    return prepare_nifti(args.scans, args.labels, output, progress=progress, warn=note, **options)


def _dicom(args: argparse.Namespace, output: Path) -> dict[str, int]:
    from ichseg.dicom.prepare import prepare_dicom

    options = given(args, "fold_tolerance", "series")
    return prepare_dicom(args.studies, args.labels, output, progress=progress, warn=note, **options)


def _phantom(args: argparse.Namespace, output: Path) -> dict[str, int]:
    from ichseg.synthetic.phantom import prepare_phantom

    return prepare_phantom(output, args.scans, args.seed, args.size, args.slices, progress=progress)


def _implants(args: argparse.Namespace, output: Path) -> dict[str, int]:
    from ichseg.report import implant_montage
    from ichseg.synthetic.implants import prepare_implants

    options: dict[str, Any] = given(args, "folds", "per_scan", "seed", "family")
    counts = prepare_implants(args.datalist, output, progress=progress, **options)
    implant_montage(output / "datalist.json", args.datalist, output / "montage.png")
    print(f"wrote {output / 'montage.png'}: implants next to real hemorrhage; review them before use")
    return counts


def _compact(args: argparse.Namespace, output: Path) -> dict[str, int]:
    from ichseg.data import prepare_compact

    return prepare_compact(args.datalist, output, args.size, args.folds, progress=progress, warn=note)
