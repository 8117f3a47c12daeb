"""``ichseg merge``: the tables of a folder that was run in parts."""

from __future__ import annotations

import argparse
import sys

from ichseg.errors import DONE, SOME_FAILED

HELP = "Merge the tables of 'segment --shard' into results.csv, results.jsonl and report.html, at any time."
EXAMPLE = "ichseg segment SCANS MASKS --shard 1/2 & ichseg segment SCANS MASKS --shard 2/2; wait\n  ichseg merge MASKS"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUTPUT", help="the output folder of all parts, or its URL")
    parser.add_argument("--parquet", action="store_true", help="also write results.parquet")


def run(args: argparse.Namespace) -> int:
    from ichseg.folder import merge_parts
    from ichseg.folder.status import NOT_STARTED
    from ichseg.io.urls import is_url
    from ichseg.report import merge_report

    if is_url(args.output):
        from ichseg.folder.remote_tables import merge_remote

        results, unfinished = merge_remote(args.output, args.parquet)
        print(f"{results.summary()} -> {args.output.rstrip('/')}/{results.path.name}")
    else:
        results, unfinished = merge_parts(args.output)
        page = merge_report(args.output, results)
        if args.parquet:
            results.write_parquet()
        print(f"{results.summary()} -> {results.path}\nreport: {page}")
    for part in unfinished:
        state = "has not been started" if part.state == NOT_STARTED else f"is {part.state}"
        told = "" if part.state == NOT_STARTED else f"; {part.missing} of its scans are missing" if part.missing else ""
        print(f"ichseg: {args.output}: part {part.name} {state}{told}", file=sys.stderr)
    return SOME_FAILED if unfinished or results.count("failed") else DONE
