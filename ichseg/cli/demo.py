"""``ichseg demo``: phantoms through the shipped model, truth next to prediction."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ichseg.cli.options import progress, run_options
from ichseg.defaults import DEMO_PHANTOMS
from ichseg.errors import DONE, IchsegError

if TYPE_CHECKING:
    import numpy as np

HELP = "Segment a few phantoms with the shipped model and print the true and predicted volumes."
EXAMPLE = "ichseg demo --output demo_output"
PICTURES_PER_SCAN = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="demo_output", metavar="DIR", help="output folder (default: %(default)s)")
    parser.add_argument("--scans", type=int, default=DEMO_PHANTOMS, help="number of phantoms (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("--weights", metavar="FILE", help="weight file (default: the model shipped with ichseg)")
    run_options(parser)


def run(args: argparse.Namespace) -> int:
    """Draw phantoms, segment them, print true and predicted milliliters and Dice, draw the outlines."""
    import torch

    from ichseg.late import import_monai

    import_monai()
    from ichseg.data import load_datalist
    from ichseg.io import read_mask, read_volume, scan_name
    from ichseg.metrics import dice, hemorrhage_volume
    from ichseg.report import montage, slice_picture, telling_slices

    output = Path(args.output)
    masks, datalist = output / "masks", _phantoms(output / "phantoms", args.scans, args.seed)
    _segment(args, datalist.parent / "images", masks)
    pictures = []
    print(f"\n{'scan':14s}{'hemorrhage':>14s}{'true mL':>10s}{'found mL':>10s}{'Dice':>8s}")
    for case in load_datalist(datalist):
        volume = read_volume(case["image"])
        truth, affine = read_mask(case["label"])
        found, _ = read_mask(masks / f"{scan_name(case['image'])}_ich.nii.gz")
        true_ml, found_ml = (hemorrhage_volume(mask, affine)["volume_ml"] for mask in (truth, found))
        overlap = dice(torch.from_numpy(found), torch.from_numpy(truth))
        shown, kinds = "-" if not true_ml else f"{overlap:.2f}", _kinds(truth)
        print(f"{case['case']:14s}{kinds:>14s}{true_ml:10.1f}{found_ml:10.1f}{shown:>8s}")
        caption = f"{case['case']} ({kinds}): true {true_ml:.1f} mL, found {found_ml:.1f} mL, Dice {shown}"
        chosen = telling_slices(truth, PICTURES_PER_SCAN, found)
        pictures.append((caption, [slice_picture(volume.array[..., i], found[..., i], truth[..., i]) for i in chosen]))
    montage(pictures, output / "demo.png")
    print(f"\nmasks and results.csv: {masks}\nimage: {output / 'demo.png'}")
    print("Phantoms only test the installation. For the accuracy of the model on patients, see the model card.")
    return DONE


def _phantoms(folder: Path, scans: int, seed: int) -> Path:
    """The datalist of the phantoms, drawn now if they are not there."""
    from ichseg.data import load_datalist
    from ichseg.synthetic.phantom import prepare_phantom

    datalist = folder / "datalist.json"
    if not datalist.is_file():
        print(f"creating {scans} phantom{'s' * (scans > 1)} ...")
        prepare_phantom(folder, scans, seed, size=192, slices=20, progress=progress)
    count = len(load_datalist(datalist))
    drawn = json.loads(datalist.read_text(encoding="utf-8")).get("seed")
    if count != scans or drawn != seed:
        raise IchsegError(f"{folder}: holds {count} phantoms of seed {drawn}; remove it or choose another --output")
    return datalist


def _segment(args: argparse.Namespace, scans: Path, masks: Path) -> None:
    from ichseg.cli import main

    words = ["segment", str(scans), str(masks), "--device", args.device, "--precision", args.precision]
    words += ["--weights", args.weights] if args.weights else []
    words += [f"--set={pair}" for pair in args.set]
    words += ["--batch-size", str(args.batch_size)] if args.batch_size else []
    if (code := main(words)) != DONE:
        raise SystemExit(code)


def _kinds(truth: np.ndarray) -> str:
    from ichseg.data import SUBTYPES

    return "+".join(name for code, name in SUBTYPES.items() if (truth == code).any()) or "none"
