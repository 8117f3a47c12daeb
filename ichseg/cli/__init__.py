"""The command line: words to calls. Steps live in the bundles' configs, which are started through monai.bundle."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence

from ichseg.cli.commands import BACKBONE_CHOICES, EXPERIMENT_CHOICES
from ichseg.cli.parser import build_parser
from ichseg.errors import INTERRUPTED, USAGE, first_cause, is_set_up, one_line

__all__ = ["BACKBONE_CHOICES", "EXPERIMENT_CHOICES", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = build_parser().parse_args(arguments)
    _quiet(args.debug)
    try:
        return args.call(args)
    except KeyboardInterrupt:
        print("ichseg: interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as stop:  # a bundle's own exit code
        return int(stop.code or 0)
    except Exception as error:
        if args.debug:
            raise
        if isinstance(cause := first_cause(error), FileExistsError | NotADirectoryError | PermissionError):
            print(f"ichseg: error: {cause.filename}: {cause.strerror}", file=sys.stderr)
            return USAGE
        print(f"ichseg: error: {one_line(error)}", file=sys.stderr)
        if not is_set_up(error):
            print("ichseg: this looks like a fault of ichseg; --debug shows where", file=sys.stderr)
        return USAGE


def _quiet(debug: bool) -> None:
    """ichseg's own log lines on the screen, the libraries' only if they warn."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("ichseg").setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:
        warnings.simplefilter("ignore")
