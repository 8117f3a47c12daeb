"""The command line: one module per command, with its options and its function.

Steps live in the bundles' configs, which are started through monai.bundle. Heavy imports stand inside the functions, so
that ``--help`` and wrong usage cost nothing.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ichseg.cli.options import Parser
from ichseg.errors import INTERRUPTED, INTERRUPTION, NO_ROOM, USAGE, chain, first_cause, is_set_up, one_line
from ichseg.progress import never_stop_printing
from ichseg.version import __version__

COMMANDS = ("demo", "segment", "listen", "pacs", "estimate", "status", "measure", "merge", "prepare", "train",
            "train-classifier", "pseudo-label", "train-segmenter", "evaluate", "experiment", "compare", "check",
            "convert-weights", "export")  # fmt: skip
EXAMPLES = """examples:
  ichseg demo                                        try it on phantoms, in about a minute
  ichseg segment SCANS MASKS                         segment hemorrhage in a folder of NIfTI or DICOM scans
  ichseg listen SPOOL --send-to PACS@HOST:PORT       segment what a PACS or scanner sends, and send results back
  ichseg estimate SCANS                              hours, memory and money for a folder of scans
  ichseg status MASKS                                progress of the runs in a folder
  ichseg measure MASKS                               volume in mL, lesions and ABC/2 of masks
  ichseg check BUNDLE                                examine a bundle, config, datalist or weights first
  ichseg prepare bcihm DOWNLOAD DATA                 convert a public data set
  ichseg prepare nifti SCANS LABELS.csv DATA         use your own scans and slice labels
  ichseg train --datalist DATA/datalist.json --output runs/recommended
  ichseg train-classifier --datalist DATA/datalist.json --output runs/classifiers
  ichseg pseudo-label --datalist DATA/datalist.json --classifiers runs/classifiers --output runs/pseudo
  ichseg train-segmenter --datalist DATA/datalist.json --pseudo-labels runs/pseudo --output runs/unet
  ichseg segment SCANS MASKS --weights runs/unet/model.pt
  ichseg experiment table4 --datalist DATA/datalist.json --output runs/table4
  ichseg compare --datalist DATA/datalist.json --output runs/compared

exit codes: 0 all done, 1 some scans failed (see results.csv), 2 wrong usage or setup,
130 interrupted (rerun the same command to resume).
Unrelated to the R package of the same name. For research only, not for clinical use."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="ichseg",
        description="Segment intracranial hemorrhage on head CT, trained from slice labels only.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"ichseg {__version__}")
    words = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        command = import_module(f"ichseg.cli.{name.replace('-', '_')}")
        epilog = f"example:\n  {command.EXAMPLE}"
        sub = words.add_parser(name, help=command.HELP, description=command.HELP, epilog=epilog, formatter_class=raw)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.add_options(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    never_stop_printing()
    try:
        args = build_parser().parse_args(arguments)
        _quiet(args.debug)
    except KeyboardInterrupt:
        return _interrupted()
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as stop:  # a bundle's own exit code
        return int(stop.code or 0)
    except Exception as error:
        if args.debug:
            raise
        if any(isinstance(link, KeyboardInterrupt) for link in chain(error)):  # in an import that MONAI wraps
            return _interrupted()
        cause = first_cause(error)
        kinds = (FileExistsError, NotADirectoryError, PermissionError)
        if isinstance(cause, OSError) and (isinstance(cause, kinds) or cause.errno in NO_ROOM):
            where = "" if cause.filename is None else f"{_told(Path(str(cause.filename)))}: "
            print(f"ichseg: error: {where}{cause.strerror}", file=sys.stderr)
            return USAGE
        print(f"ichseg: error: {one_line(error)}", file=sys.stderr)
        if not is_set_up(error):
            print("ichseg: this looks like a bug in ichseg; --debug shows where", file=sys.stderr)
        return USAGE


def _interrupted() -> int:
    print(f"ichseg: {INTERRUPTION}", file=sys.stderr)
    return INTERRUPTED


def _told(path: Path) -> Path:
    """The folder of a file that only this program knows, or the path itself."""
    from ichseg.io.atomic import TEMPORARY_PREFIX

    return path.parent if path.name.startswith(TEMPORARY_PREFIX) else path


def _quiet(debug: bool) -> None:
    """ichseg's own log lines on the screen, the libraries' only if they warn."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("ichseg").setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:
        warnings.simplefilter("ignore")
