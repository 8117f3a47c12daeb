"""The command line: words to calls. Steps live in the bundles' configs, which are started through monai.bundle."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ichseg.errors import IchsegError, one_line
from ichseg.launch import run_bundle, settings_beside
from ichseg.version import __version__

DONE, SOME_FAILED, USAGE = 0, 1, 2
# ichseg.networks.BACKBONES, without importing torch; a test keeps them equal.
BACKBONE_CHOICES = ("resnet34", "resnet50", "densenet121", "densenet169", "vgg16", "vgg19", "convnextv2_tiny")
PAPER_PAIR = ("resnet34", "resnet50")
# ichseg.experiments.EXPERIMENTS likewise.
EXPERIMENT_CHOICES = ("table1", "table2", "table3", "table4", "figure7", "figure8")

# Options of prepare -> their default and whom they are for.
PREPARE_OPTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "masks": (None, ("bcihm", "nifti")),
    "spacing": (None, ("bcihm",)),
    "group_by": ("patient", ("bhsd",)),
    "labels_at": (None, ("bhsd",)),
    "fold_tolerance": (0.03, ("bhsd", "nifti")),
    "scans": (10, ("phantom",)),
    "seed": (0, ("phantom", "implants")),
    "size": (256, ("phantom",)),
    "slices": (24, ("phantom",)),
    "folds": ("3,4", ("implants",)),
    "per_scan": (2, ("implants",)),
}

EXAMPLES = """examples:
  ichseg demo                                        see it work on phantoms, in about a minute
  ichseg segment SCANS MASKS                         outline hemorrhage in a folder of NIfTI scans
  ichseg prepare bcihm DOWNLOAD DATA                 convert a public data set
  ichseg prepare nifti SCANS LABELS.csv DATA         your own scans and slice labels
  ichseg train-classifier --datalist DATA/datalist.json --output runs/classifiers
  ichseg pseudo-label --datalist DATA/datalist.json --classifiers runs/classifiers --output runs/pseudo
  ichseg train-segmenter --datalist DATA/datalist.json --pseudo-labels runs/pseudo --output runs/unet
  ichseg segment SCANS MASKS --weights runs/unet/model.pt
  ichseg experiment table4 --datalist DATA/datalist.json --output runs/table4

exit codes: 0 all done, 1 some scans failed (see results.csv), 2 wrong usage or set-up,
130 interrupted (run the same command again to go on).
Not the R package of the same name. Research only, not for clinical use."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = _parser().parse_args(arguments)
    _quiet(args.debug)
    try:
        return args.call(args)
    except KeyboardInterrupt:
        print("ichseg: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except SystemExit as stop:  # a bundle's own exit code
        return int(stop.code or 0)
    except Exception as error:
        if args.debug:
            raise
        if isinstance(cause := _cause(error), FileExistsError | NotADirectoryError | PermissionError):
            print(f"ichseg: error: {cause.filename}: {cause.strerror}", file=sys.stderr)
            return USAGE
        print(f"ichseg: error: {one_line(error)}", file=sys.stderr)
        if not _is_ours(error) and not isinstance(_cause(error), ValueError):
            print("ichseg: this looks like a fault of ichseg; --debug shows where", file=sys.stderr)
        return USAGE


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="ichseg",
        description="Outline intracranial hemorrhage on head CT, learned from slice labels alone.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"ichseg {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, call: Any, text: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, epilog=f"example:\n  {example}", formatter_class=raw
        )
        sub.add_argument("--debug", action="store_true", help="show where an error arose")
        sub.set_defaults(call=call)
        return sub

    prepare = command(
        "prepare",
        _prepare,
        "Convert a data set into images, labels, slice_labels.csv and datalist.json.",
        "ichseg prepare bcihm DOWNLOAD DATA\n  ichseg prepare nifti SCANS LABELS.csv DATA\n"
        "  ichseg prepare phantom DATA --scans 10\n"
        "  ichseg prepare implants DATA/datalist.json IMPLANTS --folds 3,4",
    )
    prepare.add_argument("dataset", choices=["bcihm", "bhsd", "nifti", "phantom", "implants"])
    prepare.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="SOURCE OUTPUT; nifti: SCANS LABELS.csv OUTPUT; phantom: OUTPUT; implants: DATALIST OUTPUT",
    )
    prepare.add_argument(
        "--masks", metavar="DIR", help="nifti: true masks NAME.nii.gz; bcihm v1.0.0: extra slice masks NNN_S.png"
    )
    prepare.add_argument("--spacing", metavar="CSV", help="bcihm v1.0.0: in-plane spacing table")
    prepare.add_argument(
        "--group-by",
        choices=["patient", "scan"],
        default="patient",
        help="bhsd: what no two folds share (default patient)",
    )
    prepare.add_argument(
        "--labels-at", type=int, metavar="PIXELS", help="bhsd: label slices by masks of this size (default: native)"
    )
    prepare.add_argument(
        "--fold-tolerance", type=float, default=0.03, help="bhsd, nifti: accepted unevenness of folds (default 0.03)"
    )
    prepare.add_argument("--scans", type=int, default=10, help="phantom: how many (default 10)")
    prepare.add_argument("--seed", type=int, default=0, help="phantom, implants: seed (default 0)")
    prepare.add_argument("--size", type=int, default=256, help="phantom: pixels per side (default 256)")
    prepare.add_argument("--slices", type=int, default=24, help="phantom: slices per scan (default 24)")
    prepare.add_argument("--folds", default="3,4", help="implants: into healthy scans of these folds (default 3,4)")
    prepare.add_argument("--per-scan", type=int, default=2, help="implants: variants of each scan (default 2)")

    classifier = command(
        "train-classifier",
        _train_classifier,
        "Train the slice classifiers from slice labels; resumes where it stopped.",
        "ichseg train-classifier --datalist DATA/datalist.json --output runs/classifiers --size 256 --epochs 20",
    )
    classifier.add_argument("--datalist", required=True, metavar="JSON")
    classifier.add_argument("--output", required=True, metavar="DIR", help="gets one folder per backbone")
    classifier.add_argument(
        "--backbone",
        action="append",
        choices=BACKBONE_CHOICES,
        help="may be repeated; default: the paper's, resnet34 and resnet50",
    )
    _training_options(classifier)

    pseudo = command(
        "pseudo-label",
        _pseudo_label,
        "Make pseudo-masks from trained classifiers: DIR/NAME_pseudo.nii.gz.",
        "ichseg pseudo-label --datalist DATA/datalist.json --classifiers runs/classifiers --output runs/pseudo",
    )
    pseudo.add_argument("--datalist", required=True, metavar="JSON")
    pseudo.add_argument("--classifiers", required=True, metavar="DIR", help="output of train-classifier")
    pseudo.add_argument("--output", required=True, metavar="DIR")
    pseudo.add_argument(
        "--backbone",
        action="append",
        choices=BACKBONE_CHOICES,
        help="which of the folder's classifiers; may be repeated (default: all)",
    )
    pseudo.add_argument("--folds", help="only these folds, e.g. 0-2 or 3,4")
    pseudo.add_argument("--threshold", type=float, help="on the fused maps (default 0.22)")
    pseudo.add_argument("--size", type=int, help="default: as the classifiers were trained")
    _run_options(pseudo)

    segmenter = command(
        "train-segmenter",
        _train_segmenter,
        "Train the U-Net on pseudo-masks; resumes where it stopped.",
        "ichseg train-segmenter --datalist DATA/datalist.json --pseudo-labels runs/pseudo --output runs/unet",
    )
    segmenter.add_argument("--datalist", required=True, metavar="JSON")
    segmenter.add_argument(
        "--pseudo-labels", metavar="DIR", help="output of pseudo-label; without it, the datalist's own masks"
    )
    segmenter.add_argument("--output", required=True, metavar="DIR")
    _training_options(segmenter)

    segment = command(
        "segment",
        _segment,
        "Outline hemorrhage in every scan of a folder: OUTPUT/NAME_ich.nii.gz and OUTPUT/results.csv.",
        "ichseg segment SCANS MASKS\n  ichseg segment scan.nii.gz MASKS --weights runs/unet/model.pt --device cuda:0",
    )
    segment.add_argument("input", metavar="INPUT", help="a folder of .nii or .nii.gz scans, or one file")
    segment.add_argument("output", metavar="OUTPUT", help="folder for masks and results.csv")
    segment.add_argument("--weights", metavar="FILE", help="default: the model shipped with ichseg")
    segment.add_argument("--threshold", type=float, help="on the probability of hemorrhage (default 0.5)")
    segment.add_argument("--size", type=int, help="default: as the weights were trained")
    _run_options(segment)

    evaluate = command(
        "evaluate",
        _evaluate,
        "Compare masks with true masks and, where there are some, with slice labels.",
        "ichseg evaluate MASKS DATA/datalist.json --output DIR\n"
        "  ichseg evaluate MASKS TRUE_MASKS --images SCANS --output DIR",
    )
    evaluate.add_argument(
        "predictions", metavar="PREDICTIONS", help="folder of NAME_ich.nii.gz, NAME_pseudo.nii.gz or NAME.nii.gz"
    )
    evaluate.add_argument("truth", metavar="TRUTH", help="datalist.json, or a folder of true masks NAME.nii.gz")
    evaluate.add_argument("--output", metavar="DIR", help="for evaluation.csv, .json, _scans.csv, detection.json")
    evaluate.add_argument("--images", metavar="DIR", help="with a folder of true masks: the scans, for the HU rule")
    evaluate.add_argument("--folds", help="only these folds of the datalist, e.g. 3-4")
    evaluate.add_argument("--cases", nargs="+", metavar="CASE", help="only these cases")
    evaluate.add_argument(
        "--connectivity", type=int, default=8, choices=[4, 8, 6, 18, 26], help="of lesions; 8 in slices is the default"
    )
    evaluate.add_argument("--tolerance-mm", type=float, default=2.0, help="of the surface Dice (default 2)")

    experiment = command(
        "experiment",
        _experiment,
        "Run a table or figure of the paper: DIR/NAME.csv, .md and .png, our figures beside the published ones.",
        "ichseg experiment table4 --datalist DATA/datalist.json --output DIR --size 256 --epochs 20\n"
        "  ichseg experiment figure8 --datalist DATA/datalist.json --output DIR --size 256 --epochs 20\n"
        "  (the same DIR: classifiers and maps are made once; an interrupted run goes on where it stopped)",
    )
    experiment.add_argument("name", choices=EXPERIMENT_CHOICES, metavar="NAME", help=", ".join(EXPERIMENT_CHOICES))
    experiment.add_argument("--datalist", required=True, metavar="JSON", help="some of its scans need masks")
    experiment.add_argument("--output", required=True, metavar="DIR")
    experiment.add_argument("--benchmark", metavar="JSON", help="evaluate on this too, e.g. implants; never pooled")
    experiment.add_argument("--classifiers", metavar="DIR", help="trained ones to use instead of training")
    experiment.add_argument("--size", type=int, default=384, help="pixels per side (default 384)")
    experiment.add_argument("--epochs", type=int, default=200, help="of each training, at most (default 200)")
    experiment.add_argument("--train-folds", default="0-2", help="default: 0-2")
    experiment.add_argument("--val-folds", default="3", help="default: 3")
    experiment.add_argument("--test-folds", default="4", help="default: 4")
    experiment.add_argument("--batch-size", type=int, help="in training (default: 64 classifiers, 32 U-Net)")
    experiment.add_argument("--architecture", choices=["small", "paper"], default="small", help="U-Net (default small)")
    experiment.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    experiment.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="default: fp32")
    experiment.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="a value of the pseudo-mask bundle's config for every row, e.g. gate_by=label",
    )

    demo = command(
        "demo",
        _demo,
        "Segment a few phantoms with the shipped model and show true and predicted milliliters.",
        "ichseg demo --output demo_output",
    )
    demo.add_argument("--output", default="demo_output", metavar="DIR", help="default: demo_output")
    demo.add_argument("--scans", type=int, default=4, help="how many phantoms (default 4)")
    demo.add_argument("--seed", type=int, default=0, help="seed of the phantoms (default 0)")
    demo.add_argument("--weights", metavar="FILE", help="default: the model shipped with ichseg")
    _run_options(demo)
    return parser


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="default: fp32")
    parser.add_argument("--batch-size", type=int, help="slices per pass")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other value of the bundle's config",
    )


def _training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, help="slices are resized to this many pixels per side (default 384)")
    parser.add_argument("--epochs", type=int, help="at most (default 200, with early stopping)")
    parser.add_argument("--train-folds", default="0-2", help="default: 0-2")
    parser.add_argument("--val-folds", default="3", help="default: 3")
    _run_options(parser)


def _prepare(args: argparse.Namespace) -> int:
    wanted = {"nifti": ["SCANS", "LABELS.csv", "OUTPUT"], "phantom": ["OUTPUT"]}.get(args.dataset, ["SOURCE", "OUTPUT"])
    if len(args.paths) != len(wanted):
        raise IchsegError(f"prepare {args.dataset} needs {' '.join(wanted)}, {len(args.paths)} path(s) given")
    for option, (default, datasets) in PREPARE_OPTIONS.items():
        if getattr(args, option) != default and args.dataset not in datasets:
            raise IchsegError(f"--{option.replace('_', '-')} is for prepare {' and '.join(datasets)}")
    output = Path(args.paths[-1])
    options: dict[str, Any] = {"progress": _progress}
    if args.dataset == "phantom":
        from ichseg.data.phantom import prepare_phantom

        counts = prepare_phantom(output, args.scans, args.seed, args.size, args.slices, _progress)
    elif args.dataset == "implants":
        from ichseg.data.implants import prepare_implants
        from ichseg.report import implant_montage

        counts = prepare_implants(args.paths[0], output, args.folds, args.per_scan, args.seed, _progress)
        implant_montage(output / "datalist.json", args.paths[0], output / "montage.png")
        print(f"wrote {output / 'montage.png'}: implants beside real hemorrhage; look before you trust them")
    else:
        from ichseg import data

        options["warn"] = lambda line: print(f"ichseg: note: {line}", file=sys.stderr)
        if args.dataset == "bcihm":
            counts = data.prepare_bcihm(args.paths[0], output, args.masks, args.spacing, **options)
        elif args.dataset == "bhsd":
            options |= {"group_by": args.group_by, "labels_at": args.labels_at, "fold_tolerance": args.fold_tolerance}
            counts = data.prepare_bhsd(args.paths[0], output, **options)
        else:
            options |= {"fold_tolerance": args.fold_tolerance, "masks": args.masks}
            counts = data.prepare_nifti(args.paths[0], args.paths[1], output, **options)
    print(", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in counts.items()))
    print(f"wrote {output / 'datalist.json'}")
    return DONE


def _train_classifier(args: argparse.Namespace) -> int:
    backbones = args.backbone or PAPER_PAIR
    if len(backbones) > 1 and any(setting.startswith("init_weights=") for setting in args.set):
        raise IchsegError("init_weights is one network's: give one --backbone with it")
    for backbone in backbones:
        overrides = {**_training_overrides(args), "backbone": backbone}
        overrides["output_dir"] = str(Path(args.output).resolve() / backbone)
        run_bundle("ich_slice_classification", "train.yaml", overrides, args.set)
        print(f"wrote {Path(args.output) / backbone / 'model.pt'}")
    return DONE


def _pseudo_label(args: argparse.Namespace) -> int:
    folder = Path(args.classifiers)
    found = {
        b: str((folder / b / "model.pt").resolve())
        for b in args.backbone or BACKBONE_CHOICES
        if args.backbone or (folder / b / "model.pt").is_file()
    }
    if not found:
        raise IchsegError(f"{folder}: no <backbone>/model.pt in this folder; run 'ichseg train-classifier' first")
    _load_check(args.datalist)
    overrides = {
        **settings_beside(*found.values()),
        "datalist": str(Path(args.datalist).resolve()),
        "output_dir": str(Path(args.output).resolve()),
        "classifiers": found,
        "folds": args.folds,
        "threshold": args.threshold,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "device_name": args.device,
        **({} if args.size is None else {"size": args.size}),
    }
    run_bundle("ich_pseudo_segmentation", "generate.yaml", overrides, args.set)
    return DONE


def _train_segmenter(args: argparse.Namespace) -> int:
    overrides = _training_overrides(args)
    overrides["output_dir"] = str(Path(args.output).resolve())
    overrides["pseudo_dir"] = None if args.pseudo_labels is None else str(Path(args.pseudo_labels).resolve())
    overrides["supervision"] = "masks" if args.pseudo_labels is None else "pseudo"
    run_bundle("ich_segmentation", "train.yaml", overrides, args.set)
    print(f"wrote {Path(args.output) / 'model.pt'}")
    return DONE


def _segment(args: argparse.Namespace) -> int:
    overrides = {
        **({} if args.weights is None else settings_beside(args.weights)),
        "dataset_dir": str(Path(args.input).resolve()),
        "output_dir": str(Path(args.output).resolve()),
        "weights": None if args.weights is None else str(Path(args.weights).resolve()),
        "threshold": args.threshold,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "device_name": args.device,
        **({} if args.size is None else {"size": args.size}),
    }
    run_bundle("ich_segmentation", "inference.yaml", overrides, args.set)
    return DONE


def _evaluate(args: argparse.Namespace) -> int:
    from ichseg.data.datalist import load_datalist
    from ichseg.report import evaluate_masks, evaluate_slices, print_evaluation

    options = {"output": args.output, "folds": args.folds, "cases": args.cases, "progress": _progress}
    if not args.tolerance_mm >= 0 or args.tolerance_mm == float("inf"):
        raise IchsegError(f"--tolerance-mm must be a number of millimeters, not {args.tolerance_mm}")
    masked, labeled = Path(args.truth).is_dir(), False
    if not masked:
        if args.images is not None:
            raise IchsegError("--images goes with a folder of masks; a datalist knows its scans")
        scans = load_datalist(args.truth, args.folds, cases=args.cases)
        masked = any("label" in scan for scan in scans)
        labeled = all("slice_labels" in scan for scan in scans)
    if not masked and not labeled:
        raise IchsegError(f"{args.truth}: no scan has a mask (key 'label') or slice labels: nothing to compare with")
    if masked:
        more = {"images": args.images, "connectivity": args.connectivity, "tolerance_mm": args.tolerance_mm}
        print_evaluation(evaluate_masks(args.predictions, args.truth, **options, **more))
        print()
    if labeled:
        for name, value in evaluate_slices(args.predictions, args.truth, **options).items():
            shown = f"{value:>12.3f}" if isinstance(value, float) else f"{value:>12d}"
            print(f"{name.replace('_', ' '):26s}{shown}")
        if not masked:
            print("(the datalist has no masks, key 'label': only slices are compared)")
    return DONE


def _experiment(args: argparse.Namespace) -> int:
    _load_check(args.datalist)
    from ichseg.experiments import Study, run_experiment

    study = Study(
        **{k: v for k, v in vars(args).items() if k not in ("name", "command", "call", "debug")}, progress=_progress
    )
    print(run_experiment(args.name, study))
    print(f"wrote {args.name}.csv, .md and .png in {args.output}")
    return DONE


def _demo(args: argparse.Namespace) -> int:
    from ichseg.demo import run_demo

    def segment(scans: Path, masks: Path) -> None:
        words = ["segment", str(scans), str(masks), "--device", args.device, "--precision", args.precision]
        words += ["--weights", args.weights] if args.weights else []
        words += [f"--set={pair}" for pair in args.set]
        words += ["--batch-size", str(args.batch_size)] if args.batch_size else []
        code = main(words)
        if code != DONE:
            raise SystemExit(code)

    run_demo(Path(args.output), args.scans, args.seed, segment, _progress)
    return DONE


def _training_overrides(args: argparse.Namespace) -> dict[str, Any]:
    from ichseg.data.folds import check_folds, parse_folds

    _load_check(args.datalist)
    check_folds(args.datalist, training=args.train_folds, validation=args.val_folds)
    return {
        "datalist": str(Path(args.datalist).resolve()),
        "size": args.size,
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "train_folds": list(parse_folds(args.train_folds)),
        "val_folds": list(parse_folds(args.val_folds)),
        "device_name": args.device,
        "precision": args.precision,
    }


def _load_check(datalist: str) -> None:
    """The datalist is wrong in a second rather than after MONAI's five."""
    from ichseg.data.datalist import load_datalist

    load_datalist(datalist)


def _progress(items: Any) -> Any:
    from tqdm import tqdm

    return tqdm(items, unit="scan")


def _quiet(debug: bool) -> None:
    """ichseg's own log lines on the screen, the libraries' only if they warn."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("ichseg").setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:
        warnings.simplefilter("ignore")


def _cause(error: BaseException) -> BaseException:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return error


def _is_ours(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, IchsegError):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    sys.exit(main())
