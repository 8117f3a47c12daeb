"""From a datalist to a model and its figures, by the name of a preset."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ichseg.bundle import BundleParts, config_values, content_with, parse_settings, run_bundle
from ichseg.data import check_folds, load_datalist, parse_folds
from ichseg.data.datalist import datalist_hash, entries_hash, images_hash
from ichseg.defaults import MEMBERS, PAPER_PAIR, TEST_FOLDS, TRAIN_FOLDS, VAL_FOLDS
from ichseg.devices import pick_device
from ichseg.errors import IchsegError
from ichseg.evaluation import evaluate_masks, evaluate_slices
from ichseg.io import write_csv
from ichseg.networks import segmenter_settings
from ichseg.presets.fitting import fit_reference, fit_score
from ichseg.presets.join import join_members
from ichseg.processes import check_same_files, is_rank_zero, place_and_count
from ichseg.provenance import Record, file_hash
from ichseg.training import only_first_process_goes_on, settings_of
from ichseg.training.same_run import SEVERAL_PROCESSES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a preset is to make, and of what.

    Attributes:
        datalist: with ``slice_labels`` and ``fold``; masks under ``label``, if there are any, are only compared with.
        output: folder; running the same plan again goes on.
        train_folds, val_folds, test_folds: apart from each other. Nothing is trained on the last two.
        cache: folder for packed slices and implants, which several plans may share; ``output`` if None.
        members: networks of the recommended preset, averaged.
        member: train only this one of them, beside processes that train the others; None: all, then join them.
        seed: of training; member K has seed + K.
        settings: ``KEY=VALUE`` for the training config.
        overrides: values of the training config, as :func:`ichseg.bundle.run_bundle` takes them.
        workers: ``num_workers`` of the training configs; None: as they have it.
        device, precision: of training.
        progress: wraps the iteration over scans.
    """

    datalist: Path
    output: Path
    train_folds: str = TRAIN_FOLDS
    val_folds: str = VAL_FOLDS
    test_folds: str = TEST_FOLDS
    cache: Path | None = None
    members: int = MEMBERS
    member: int | None = None
    seed: int = 0
    settings: tuple[str, ...] = ()
    overrides: dict[str, Any] = field(default_factory=dict)
    workers: int | None = None
    device: str | None = None
    precision: str | None = None
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter

    @property
    def shared(self) -> Path:
        """Where packed slices and implants lie."""
        return self.cache or self.output

    @property
    def held_out(self) -> str:
        """The folds nothing is trained on."""
        return f"{self.val_folds},{self.test_folds}"


def train_preset(name: str, plan: Plan) -> Path:
    """Train a preset on a plan's folds, segment the held-out scans and measure the masks.

    Args:
        name: ``"recommended"`` or ``"paper"``.
        plan: what and of what.

    Returns:
        the weights, ``output/model.pt``; beside them ``masks/`` of the held-out scans and ``results/``. Of one member
        only, its weights.

    Raises:
        IchsegError: an unknown preset, or folds that are not there or overlap.
    """
    _check(name, plan)
    check_folds(plan.datalist, training=plan.train_folds, validation=plan.val_folds, test=plan.test_folds)
    _claim(name, plan, "held out")
    weights = PRESETS[name](plan)
    if plan.member is not None:
        return weights
    evaluate(plan, segment(plan, weights), plan.output / "results", plan.held_out)
    return weights


def cross_validate(name: str, plan: Plan, folds: Iterable[int]) -> Path:
    """Train a preset once per fold, the fold before it watching, and measure all held-out masks together.

    Args:
        name, plan: as for :func:`train_preset`; the folds of the plan do not count.
        folds: of the datalist.

    Returns:
        folder ``output/results`` of the pooled figures, with those of every fold in ``folds.csv``; ``output/fold_K/``
        holds what was trained for fold K.

    Raises:
        IchsegError: fewer than 3 folds.
    """
    masks, figures = plan.output / "masks", []
    plans = _fold_plans(name, plan, folds)
    _claim(name, plan, "cross-validated")
    for test, one in plans.items():
        made = segment(one, PRESETS[name](one), str(test))
        masks.mkdir(parents=True, exist_ok=True)
        for file in sorted(made.glob("*.nii.gz")):
            shutil.copyfile(file, masks / file.name)
        figures.append({"fold": test, **evaluate(one, made, one.output / "results", str(test))})
    results = plan.output / "results"
    pooled = evaluate(plan, masks, results, ",".join(map(str, plans)))
    write_csv(results / "folds.csv", ["fold", *pooled], [*figures, {"fold": "all", **pooled}])
    return results


def train_fold(name: str, plan: Plan, folds: Iterable[int], fold: int) -> Path:
    """Train for one held-out fold of :func:`cross_validate`, beside processes that train for the others.

    Returns:
        its weights, which :func:`cross_validate` takes instead of training them.

    Raises:
        IchsegError: fewer than 3 folds, or ``fold`` is none of them.
    """
    plans = _fold_plans(name, plan, folds)
    if fold not in plans:
        raise IchsegError(f"{plan.datalist}: no fold {fold}; available folds: {', '.join(map(str, plans))}")
    _claim(name, plan, "cross-validated")
    return PRESETS[name](plans[fold])


def _fold_plans(name: str, plan: Plan, folds: Iterable[int]) -> dict[int, Plan]:
    """Held-out fold -> its plan."""
    _check(name, plan)
    if plan.member is not None:
        raise IchsegError("a single member cannot be cross-validated; omit --member")
    for setting in plan.settings:
        key = setting.split("=")[0]
        if key in SEEN or any(key.startswith(f"{part}::") for part in SEEN):
            raise IchsegError(f"--set {setting}: a model has seen what folds hold out; no {key} with cross-validation")
    every = sorted(folds)
    if len(every) < 3:
        raise IchsegError(f"{plan.datalist}: cross-validation needs at least 3 folds, but there are {len(every)}")
    plans = {}
    for place, test in enumerate(every):
        watching = every[place - 1]
        training = ",".join(str(fold) for fold in every if fold not in (test, watching))
        plans[test] = replace(plan, output=plan.output / f"fold_{test}", train_folds=training,
                              val_folds=str(watching), test_folds=str(test), cache=plan.shared)  # fmt: skip
    return plans


# Weights that may come from a training on scans that a fold holds out.
SEEN = ("teacher_weights", "judge_weights", "init_weights", "train::prepare", "train::pool")
# What the plan itself decides: settings that changed it would train on scans that are held out, or twice the same.
DECIDED = ("bundle_root", "cache_dir", "datalist", "dataset_dir", "output_dir", "seed", "train_folds", "val_folds")
ADDED = ("images", "inputs", "masks")  # to the records of trainings, in version 0.9
OF_EVERY_STEP = ("size", "window_level", "window_width", "precision", "device_name", "num_workers")
# What --set reaches.
CONFIGS = {"recommended": "train_recommended.yaml", "paper": "train_paper.yaml"}


def _claim(name: str, plan: Plan, way: str) -> None:
    """Two presets, or two ways of holding scans out, must not share a folder: their masks and figures would mix."""
    record = Record(plan.output, {"preset": name, "scans": way})
    record.check()
    if is_rank_zero():
        record.write()


def _check(name: str, plan: Plan) -> None:
    if name not in PRESETS:
        raise IchsegError(f"preset '{name}' is unknown; choose one of {', '.join(PRESETS)}")
    if name == "paper" and (plan.members != 1 or plan.member is not None):
        raise IchsegError("--members and --member require --preset recommended")
    if name == "paper" and plan.cache is not None:
        raise IchsegError("--cache requires --preset recommended: the paper's steps keep nothing to share")
    for setting in plan.settings:
        if (key := setting.split("=")[0].split("::")[0]) in DECIDED:
            raise IchsegError(f"--set {setting}: '{key}' is set by the options of 'ichseg train'")
        if name == "paper" and key in OF_EVERY_STEP:
            told = f"with --preset paper this reaches the U-Net only, and '{key}' belongs to every step"
            raise IchsegError(f"--set {setting}: {told}; use the option of 'ichseg train', or run the steps one by one")
    parse_settings("ich_segmentation", CONFIGS[name], plan.settings)  # before hours of training, not after them


def recommended(plan: Plan) -> Path:
    """The recommended preset: members trained on implants and slice labels, joined, their score fitted."""
    files = []
    for member in range(plan.members) if plan.member is None else [plan.member]:
        folder = plan.output / f"member_{member}"
        overrides = {**training_values(plan, folder), "cache_dir": plan.shared, "seed": plan.seed + member}
        files.append(trained(CONFIGS["recommended"], folder, overrides, plan.settings))
    only_first_process_goes_on()
    return files[0] if plan.member is not None else complete(plan, files)


def complete(plan: Plan, files: Sequence[Path]) -> Path:
    """Join trained members and fit what belongs to them all, on the slice labels of the validation fold.

    Args:
        plan: what they were trained by.
        files: ``model.pt`` of each member.

    Returns:
        ``output/model.pt``.

    Raises:
        IchsegError: members that were trained with different settings.
    """
    made = segmenter_settings(files[0])
    inputs = config_values("ich_segmentation", CONFIGS["recommended"])["inputs"]
    # The scans as the members saw them, by parts of the config that were changed, too.
    values = {**plan.overrides, **parse_settings("ich_segmentation", CONFIGS["recommended"], plan.settings)}
    values |= {key: getattr(made, key) for key in inputs}
    values |= {"datalist": plan.datalist, "cache_dir": plan.shared, "val_folds": list(parse_folds(plan.val_folds))}
    packed = BundleParts("ich_segmentation", CONFIGS["recommended"], values)["validate::packed"]
    reference = fit_reference(load_datalist(plan.datalist, plan.train_folds), as_compared(values))
    joined, weights = plan.output / "joined.pt", plan.output / "model.pt"
    join_members(files, joined)
    fit_score(joined, packed, pick_device(plan.device or "auto"), reference, weights)
    joined.unlink()
    return weights


def as_compared(values: Mapping[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Preprocessing up to where inference compares a scan with those of the training: nothing is evened out yet."""
    values = {**values, "slab_mm": 0.0, "remove_cupping": False}
    return BundleParts("ich_segmentation", CONFIGS["recommended"], values)["preprocessing"]


def paper(plan: Plan) -> Path:
    """The paper's configuration, 384 x 384: two classifiers, pseudo-masks, the 31 million parameter U-Net."""
    classifiers = {}
    for backbone in PAPER_PAIR:
        folder = plan.output / "classifiers" / backbone
        overrides = {**training_values(plan, folder), "backbone": backbone}
        classifiers[backbone] = trained("train.yaml", folder, overrides, (), "ich_slice_classification")
    pseudo = plan.output / "pseudo"
    run_bundle(
        "ich_pseudo_segmentation",
        "inference.yaml",
        {
            "datalist": plan.datalist,
            "output_dir": pseudo,
            "classifiers": classifiers,
            "folds": f"{plan.train_folds},{plan.val_folds}",
            "device_name": plan.device,
            "precision": plan.precision,
        },
    )
    folder = plan.output / "unet"
    overrides = {
        **training_values(plan, folder),
        "pseudo_dir": pseudo,
        "supervision": "pseudo",
        "architecture": "paper",
    }
    # The pseudo-masks are of these: trained again, they make others.
    made_by = {"classifiers": {backbone: file_hash(file) for backbone, file in classifiers.items()}}
    weights = trained(CONFIGS["paper"], folder, overrides, plan.settings, inputs=made_by)
    return Path(shutil.copyfile(weights, plan.output / "model.pt"))


PRESETS: dict[str, Callable[[Plan], Path]] = {"recommended": recommended, "paper": paper}


def segment(plan: Plan, weights: Path, folds: str | None = None, **values: Any) -> Path:
    """Masks and probabilities of the plan's held-out scans, or of some folds, in ``output/masks``.

    Args:
        plan, weights: what with.
        folds: instead of the held-out ones.
        **values: of the inference config, in place of its own and of those in the weight file.
    """
    masks = plan.output / "masks"
    overrides = {
        "dataset_dir": plan.datalist.parent,
        "data_root_dir": "",  # masks lie flat in the folder, as names in a datalist are unique
        "output_dir": masks,
        "weights": weights,
        "save_probabilities": True,
        "device_name": plan.device,
        "dataset::data": {
            "_target_": "ichseg.data.load_datalist",
            "path": plan.datalist,
            "folds": list(parse_folds(plan.held_out if folds is None else folds)),
        },
        **values,
    }
    run_bundle("ich_segmentation", segmenter_settings(weights).pipeline, overrides)
    return masks


def evaluate(plan: Plan, masks: Path, results: Path, folds: str) -> dict[str, Any]:
    """Tables and pictures of the masks against what is known of the scans, written to ``results``."""
    scans = load_datalist(plan.datalist, folds)
    options: dict[str, Any] = {"output": results, "folds": folds, "progress": plan.progress}
    if any("label" in scan for scan in scans):
        evaluate_masks(masks, plan.datalist, **options)
    return evaluate_slices(masks, plan.datalist, **options)


def training_values(plan: Plan, folder: Path) -> dict[str, Any]:
    return {
        "datalist": plan.datalist,
        "output_dir": folder,
        "train_folds": list(parse_folds(plan.train_folds)),
        "val_folds": list(parse_folds(plan.val_folds)),
        "device_name": plan.device,
        "precision": plan.precision,
        "num_workers": plan.workers,
        "seed": plan.seed,
        **plan.overrides,
    }


def trained(
    config: str,
    folder: Path,
    overrides: dict[str, Any],
    settings: Sequence[str],
    bundle: str = "ich_segmentation",
    inputs: Mapping[str, Any] | None = None,
) -> Path:
    """The weights of a bundle's training, made now unless they are there.

    Args:
        config, bundle: which.
        folder: where.
        overrides, settings: see :func:`ichseg.bundle.run_bundle`.
        inputs: hashes of files and folders it learns from, which the values only name.
    """
    weights = folder / "model.pt"
    # Members may train anywhere and be brought together: neither the machine nor its paths count.
    content = content_with(bundle, config, overrides, settings)
    made_of = settings_of(config_values(bundle, config), content, inputs or ())
    datalist = overrides["datalist"]
    made_of |= {"datalist": entries_hash(datalist), "images": images_hash(datalist)}
    if made_of.get("mask_folds"):
        made_of["masks"] = datalist_hash(datalist)
    if inputs:
        made_of["inputs"] = {**inputs}
    begun, processes = (folder / "checkpoint.pt").is_file(), place_and_count()[1]
    usual = {"precision": config_values(bundle, config).get("precision")}
    record = Record(folder, made_of, ("processes", *ADDED), usual)
    done = record.check(begun) and weights.is_file()
    check_same_files(folder, done)
    if done:
        if record.older and is_rank_zero():  # from now on it says as much
            record.write(complete=True)
        return weights
    if processes > 1:  # each with a batch of its own: what they began, as many go on with
        made_of["processes"] = processes
        overrides = {**overrides, "finalize": []}  # more may come
    record = Record(folder, made_of, ADDED, usual)
    record.check(begun)
    if is_rank_zero():
        record.write()
    run_bundle(bundle, config, overrides, list(settings), [SEVERAL_PROCESSES] if processes > 1 else [])
    if is_rank_zero():
        record.write(complete=True)
    return weights
