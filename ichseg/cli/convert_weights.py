"""``ichseg convert-weights``: weight files written before version 0.7."""

from __future__ import annotations

import argparse

from ichseg.errors import DONE

HELP = "Convert weights written before version 0.7, which had their settings in model.json, to one file with both."
EXAMPLE = """ichseg convert-weights runs/unet/model.pt runs/unet/model_0.7.pt
  ichseg convert-weights old.pt new.pt --settings old_model.json"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD.pt", help="a state dict without settings")
    parser.add_argument("new", metavar="NEW.pt", help="the file to write")
    parser.add_argument("--settings", metavar="JSON", help="default: the .json file next to OLD.pt")


def run(args: argparse.Namespace) -> int:
    from ichseg.networks.convert import convert_weights

    settings = convert_weights(args.old, args.new, args.settings)
    print(", ".join(f"{key}: {value}" for key, value in settings.items()))
    print(f"wrote {args.new}")
    return DONE
