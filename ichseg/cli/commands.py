"""What each word does: overrides for a bundle's config, or one call into the package.

Heavy imports stand inside the functions, so that ``--help`` and wrong words cost nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ichseg.errors import DONE, SOME_FAILED, IchsegError
from ichseg.launch import check_numbers, run_bundle, settings_beside
from ichseg.resources import bundle_folder

# ichseg.networks.BACKBONES, without importing torch; a test keeps them equal.
BACKBONE_CHOICES = ("resnet34", "resnet50", "densenet121", "densenet169", "vgg16", "vgg19", "convnextv2_tiny")
PAPER_PAIR = ("resnet34", "resnet50")
# ichseg.presets.PRESETS and ichseg.experiments.EXPERIMENTS likewise.
PRESET_CHOICES = ("recommended", "paper")
EXPERIMENT_CHOICES = ("table1", "table2", "table3", "table4", "figure7", "figure8")

# Of a training, unless others are given.
TRAIN_FOLDS, VAL_FOLDS, TEST_FOLDS = "0-2", "3", "4"

# Options of prepare -> their default and whom they are for.
PREPARE_OPTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "masks": (None, ("bcihm", "nifti")),
    "spacing": (None, ("bcihm",)),
    "group_by": ("patient", ("bhsd",)),
    "labels_at": (None, ("bhsd",)),
    "fold_tolerance": (0.03, ("bhsd", "nifti")),
    "scans": (10, ("phantom",)),
    "seed": (0, ("phantom", "implants")),
    "size": (None, ("phantom", "compact")),
    "slices": (24, ("phantom",)),
    "folds": (None, ("implants", "compact")),
    "per_scan": (2, ("implants",)),
    "family": ("shapes", ("implants",)),
}


def prepare(args: argparse.Namespace) -> int:
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

        options |= _given(args, "size")
        counts = prepare_phantom(output, args.scans, args.seed, slices=args.slices, **options)
    elif args.dataset == "implants":
        from ichseg.data.implants import prepare_implants
        from ichseg.report import implant_montage

        options |= {"per_scan": args.per_scan, "seed": args.seed, "family": args.family, **_given(args, "folds")}
        counts = prepare_implants(args.paths[0], output, **options)
        implant_montage(output / "datalist.json", args.paths[0], output / "montage.png")
        print(f"wrote {output / 'montage.png'}: implants beside real hemorrhage; look before you trust them")
    elif args.dataset == "compact":
        from ichseg.data import prepare_compact

        counts = prepare_compact(args.paths[0], output, warn=_note, **options, **_given(args, "size", "folds"))
    else:
        from ichseg import data

        options["warn"] = _note
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


def train(args: argparse.Namespace) -> int:
    from ichseg.data.datalist import load_datalist
    from ichseg.data.folds import check_folds

    scans = load_datalist(args.datalist, require=("slice_labels",))
    if args.members < 1:
        raise IchsegError(f"--members must be at least 1, not {args.members}")
    if args.member is not None and not 0 <= args.member < args.members:
        raise IchsegError(f"--member {args.member} of --members {args.members}: members count from 0")
    if args.fold is not None and not args.cross_validate:
        raise IchsegError("--fold is for --cross-validate")
    if args.cross_validate and (args.train_folds, args.val_folds, args.test_folds) != (
        TRAIN_FOLDS,
        VAL_FOLDS,
        TEST_FOLDS,
    ):
        raise IchsegError(
            "--cross-validate holds every fold out in turn: leave out --train-folds, --val-folds, --test-folds"
        )
    if not args.cross_validate:
        check_folds(args.datalist, training=args.train_folds, validation=args.val_folds, test=args.test_folds)
    overrides = _given(args, "size", "epochs", "batch_size")
    check_numbers({**overrides, "num_workers": args.workers})
    from ichseg.presets import Plan, cross_validate, train_fold, train_preset

    plan = Plan(
        datalist=Path(args.datalist).resolve(),
        output=Path(args.output).resolve(),
        cache=None if args.cache is None else Path(args.cache).resolve(),
        train_folds=args.train_folds,
        val_folds=args.val_folds,
        test_folds=args.test_folds,
        members=args.members,
        member=args.member,
        settings=tuple(args.set),
        overrides=overrides,
        workers=args.workers,
        device=args.device,
        precision=args.precision,
        progress=_progress,
    )
    if args.cross_validate:
        folds = {scan["fold"] for scan in scans if "fold" in scan}
        made = (
            cross_validate(args.preset, plan, folds)
            if args.fold is None
            else train_fold(args.preset, plan, folds, args.fold)
        )
        print(f"wrote {made}")
        return DONE
    print(f"wrote {train_preset(args.preset, plan)}{'' if plan.member is not None else f' and {plan.output}/results'}")
    return DONE


def train_classifier(args: argparse.Namespace) -> int:
    backbones = args.backbone or PAPER_PAIR
    if len(backbones) > 1 and any(setting.startswith("init_weights=") for setting in args.set):
        raise IchsegError("init_weights is one network's: give one --backbone with it")
    for backbone in backbones:
        overrides = {**_training_overrides(args), "backbone": backbone}
        overrides["output_dir"] = Path(args.output).resolve() / backbone
        run_bundle("ich_slice_classification", "train.yaml", overrides, args.set)
        print(f"wrote {Path(args.output) / backbone / 'model.pt'}")
    return DONE


def pseudo_label(args: argparse.Namespace) -> int:
    folder = Path(args.classifiers)
    found = {
        b: (folder / b / "model.pt").resolve()
        for b in args.backbone or BACKBONE_CHOICES
        if args.backbone or (folder / b / "model.pt").is_file()
    }
    if not found:
        raise IchsegError(f"{folder}: no <backbone>/model.pt in this folder; run 'ichseg train-classifier' first")
    _load_check(args.datalist)
    overrides = {
        **settings_beside(*found.values()),
        "datalist": Path(args.datalist).resolve(),
        "output_dir": Path(args.output).resolve(),
        "classifiers": found,
        "overwrite": args.overwrite,
        "folds": args.folds,
        "threshold": args.threshold,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "device_name": args.device,
        **({} if args.size is None else {"size": args.size}),
    }
    run_bundle("ich_pseudo_segmentation", "generate.yaml", overrides, args.set)
    return DONE


def train_segmenter(args: argparse.Namespace) -> int:
    overrides = _training_overrides(args)
    overrides["output_dir"] = Path(args.output).resolve()
    overrides["pseudo_dir"] = None if args.pseudo_labels is None else Path(args.pseudo_labels).resolve()
    overrides["supervision"] = "masks" if args.pseudo_labels is None else "pseudo"
    run_bundle("ich_segmentation", "train.yaml", overrides, args.set)
    print(f"wrote {Path(args.output) / 'model.pt'}")
    return DONE


def segment(args: argparse.Namespace) -> int:
    given = {
        "dataset_dir": Path(args.input).resolve(),
        "output_dir": Path(args.output).resolve(),
        "weights": Path(args.weights or bundle_folder("ich_segmentation") / "models" / "model.pt").resolve(),
        "threshold": args.threshold,
        "min_volume_ml": args.min_volume,
        "save_probabilities": args.save_probabilities,
        "report": not args.no_report,
        "overwrite": args.overwrite,
        "shard": args.shard,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "device_name": args.device,
        "size": args.size,
    }
    beside = {} if args.weights is None else settings_beside(args.weights)
    overrides = {**beside, **{key: value for key, value in given.items() if value is not None}}
    run_bundle("ich_segmentation", "inference.yaml", overrides, args.set)
    return DONE


def measure(args: argparse.Namespace) -> int:
    from ichseg.inference.measuring import measure_folder

    results = measure_folder(args.masks, args.output, args.images, _progress)
    print(results.text())
    if args.output:
        print(f"wrote measures.csv and measures.jsonl in {args.output}")
    return SOME_FAILED if results.count("failed") else DONE


def check(args: argparse.Namespace) -> int:
    from ichseg.check import check_path

    total = 0
    for path in args.paths:
        found = check_path(path, args.allow)
        total += len(found)
        for finding in found:
            print(finding)
        if not found:
            print(f"{path}: nothing found")
    return SOME_FAILED if total else DONE


def merge(args: argparse.Namespace) -> int:
    from ichseg.inference.merge import merge_parts
    from ichseg.report import merge_report

    results, lacking = merge_parts(args.output)
    page = merge_report(args.output, results)
    print(f"{results.summary()} -> {results.path}\nlook at {page}")
    for name in lacking:
        print(f"ichseg: {Path(args.output) / name}.jsonl: not there; that part has not been run", file=sys.stderr)
    return SOME_FAILED if lacking or results.count("failed") else DONE


def evaluate(args: argparse.Namespace) -> int:
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


def experiment(args: argparse.Namespace) -> int:
    _load_check(args.datalist)
    from ichseg.experiments import Study, run_experiment

    study = Study(
        **{k: v for k, v in vars(args).items() if k not in ("name", "command", "call", "debug")}, progress=_progress
    )
    print(run_experiment(args.name, study))
    print(f"wrote {args.name}.csv, .md and .png in {args.output}")
    return DONE


def demo(args: argparse.Namespace) -> int:
    from ichseg.cli import main
    from ichseg.demo import run_demo

    def segment_with_words(scans: Path, masks: Path) -> None:
        words = ["segment", str(scans), str(masks), "--device", args.device, "--precision", args.precision]
        words += ["--weights", args.weights] if args.weights else []
        words += [f"--set={pair}" for pair in args.set]
        words += ["--batch-size", str(args.batch_size)] if args.batch_size else []
        code = main(words)
        if code != DONE:
            raise SystemExit(code)

    run_demo(Path(args.output), args.scans, args.seed, segment_with_words, _progress)
    return DONE


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were given; without one, the default of what is called acts."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _training_overrides(args: argparse.Namespace) -> dict[str, Any]:
    from ichseg.data.folds import check_folds, parse_folds

    _load_check(args.datalist)
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


def _load_check(datalist: str) -> None:
    """The datalist is wrong in a second rather than after MONAI's five."""
    from ichseg.data.datalist import load_datalist

    load_datalist(datalist)


def _note(line: str) -> None:
    print(f"ichseg: note: {line}", file=sys.stderr)


def _progress(items: Any) -> Any:
    from ichseg.progress import progress

    return progress(items)
