"""``ichseg status``: how far the runs of an output folder have come."""

from __future__ import annotations

import argparse
import json

from ichseg.errors import DONE, SOME_FAILED

HELP = "Show what is done, failed and missing in an output folder of 'segment', part by part, while runs go on."
EXAMPLE = """ichseg status MASKS
  ichseg status MASKS --json"""
SHOWN = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUTPUT", help="the output folder of 'ichseg segment', or its URL")
    parser.add_argument("--json", action="store_true", help="one JSON line with everything, failed files included")


def run(args: argparse.Namespace) -> int:
    from ichseg.folder.status import FINISHED, as_values, read_status, status_table
    from ichseg.io.urls import is_url

    if is_url(args.output):
        from ichseg.folder.remote_tables import brought_here

        with brought_here(args.output) as (here, _):
            parts = read_status(here)
    else:
        parts = read_status(args.output)
    failed = [file for part in parts for file in part.failed]
    if args.json:
        print(json.dumps(as_values(parts)))
    else:
        print(status_table(parts))
        for file in failed[:SHOWN]:
            print(f"failed: {file}")
        if len(failed) > SHOWN:
            print(f"and {len(failed) - SHOWN} more; see the column 'message' of the results")
    return SOME_FAILED if failed or any(part.state != FINISHED for part in parts) else DONE
