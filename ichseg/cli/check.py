"""``ichseg check``: bundles, configs, datalists and weights, examined before anything of them runs."""

from __future__ import annotations

import argparse

from ichseg.errors import DONE, SOME_FAILED

HELP = "Check a bundle, config, datalist or weight file without running it; one line per problem."
EXAMPLE = """ichseg check downloaded_bundle
  ichseg check configs/inference.yaml models/model.pt DATA/datalist.json

exit codes: 0 no problems found, 1 problems found, 2 no such file
A file that passes contains nothing known to be harmful. Whether to trust its author is your decision."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="bundle folder, config, datalist or weights")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package that '_target_' may also name; can be repeated",
    )


def run(args: argparse.Namespace) -> int:
    from ichseg.check import check_path

    total = 0
    for path in args.paths:
        found = check_path(path, args.allow)
        total += len(found)
        for finding in found:
            print(finding)
        if not found:
            print(f"{path}: no problems found")
    return SOME_FAILED if total else DONE
