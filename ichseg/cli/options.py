"""What several commands share: options, checks and progress."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any

from ichseg.defaults import BACKENDS, PRECISIONS, TRAIN_FOLDS, VAL_FOLDS


class Parser(argparse.ArgumentParser):
    """Tells of unknown options with the usage of the command they were given to, and what may have been meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [name for action in self._actions for name in action.option_strings]
            close = difflib.get_close_matches(unknown[0].split("=")[0], options, 1)
            meant = f"; did you mean {close[0]}?" if close else ""
            self.error(f"unknown argument{'s' * (len(unknown) > 1)}: {' '.join(unknown)}{meant}")
        return known, unknown


def datalist_option(parser: argparse.ArgumentParser, text: str = "made by 'ichseg prepare'") -> None:
    parser.add_argument("--datalist", required=True, metavar="JSON", help=text)


def device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto (default), cpu, gpu, cuda or cuda:N")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="default: %(default)s")


def backend_option(parser: argparse.ArgumentParser) -> None:
    told = "inference library; openvino and onnxruntime run on a CPU only and are extras (default: %(default)s)"
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0], help=told)


def run_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that starts one bundle config."""
    device_options(parser)
    parser.add_argument("--batch-size", type=int, help="slices per forward pass")
    set_option(parser)


def set_option(parser: argparse.ArgumentParser, text: str = "any other value of the bundle's config") -> None:
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=f"{text}; can be repeated")


def fold_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--train-folds", default=TRAIN_FOLDS, help="training folds (default: %(default)s)")
    parser.add_argument("--val-folds", default=VAL_FOLDS, help="validation folds (default: %(default)s)")


def training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, help="pixels per side of the network input (default: see config)")
    parser.add_argument("--epochs", type=int, help="maximum number of epochs (default: see config)")
    fold_options(parser)
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that prepare slices (the recommended preset: that draw implants; default: the config's)",
    )
    run_options(parser)


def training_overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The options of :func:`training_options` as values of a training config."""
    from ichseg.data.datalist import check_folds
    from ichseg.data.folds import parse_folds

    check_folds(args.datalist, training=args.train_folds, validation=args.val_folds)
    return {
        "datalist": Path(args.datalist).resolve(),
        "size": args.size,
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "num_workers": args.workers,
        "train_folds": list(parse_folds(args.train_folds)),
        "val_folds": list(parse_folds(args.val_folds)),
        "device_name": args.device,
        "precision": args.precision,
    }


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were given; without one, the default of what is called acts."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def note(line: str) -> None:
    print(f"ichseg: note: {line}", file=sys.stderr)


def progress(items: Any) -> Any:
    """A progress bar; tqdm is imported when something is shown."""
    from ichseg.progress import progress as shown

    return shown(items)
