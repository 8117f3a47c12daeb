"""The words of the command line."""

from __future__ import annotations

import argparse
from typing import Any

from ichseg.cli import commands
from ichseg.cli.commands import BACKBONE_CHOICES, EXPERIMENT_CHOICES, PRESET_CHOICES
from ichseg.version import __version__

EXAMPLES = """examples:
  ichseg demo                                        see it work on phantoms, in about a minute
  ichseg segment SCANS MASKS                         outline hemorrhage in a folder of NIfTI scans
  ichseg measure MASKS                               milliliters, lesions and ABC/2 of masks
  ichseg check BUNDLE                                look at a bundle, config, datalist or weights first
  ichseg prepare bcihm DOWNLOAD DATA                 convert a public data set
  ichseg prepare nifti SCANS LABELS.csv DATA         your own scans and slice labels
  ichseg train --datalist DATA/datalist.json --output runs/recommended
  ichseg train-classifier --datalist DATA/datalist.json --output runs/classifiers
  ichseg pseudo-label --datalist DATA/datalist.json --classifiers runs/classifiers --output runs/pseudo
  ichseg train-segmenter --datalist DATA/datalist.json --pseudo-labels runs/pseudo --output runs/unet
  ichseg segment SCANS MASKS --weights runs/unet/model.pt
  ichseg experiment table4 --datalist DATA/datalist.json --output runs/table4

exit codes: 0 all done, 1 some scans failed (see results.csv), 2 wrong usage or set-up,
130 interrupted (run the same command again to go on).
Not the R package of the same name. Research only, not for clinical use."""


def build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="ichseg",
        description="Outline intracranial hemorrhage on head CT, learned from slice labels alone.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"ichseg {__version__}")
    words = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, call: Any, text: str, example: str) -> argparse.ArgumentParser:
        sub = words.add_parser(name, help=text, description=text, epilog=f"example:\n  {example}", formatter_class=raw)
        sub.add_argument("--debug", action="store_true", help="show where an error arose")
        sub.set_defaults(call=call)
        return sub

    prepare = command(
        "prepare",
        commands.prepare,
        "Convert a data set into images, labels, slice_labels.csv and datalist.json.",
        "ichseg prepare bcihm DOWNLOAD DATA\n  ichseg prepare nifti SCANS LABELS.csv DATA\n"
        "  ichseg prepare phantom DATA --scans 10\n"
        "  ichseg prepare implants DATA/datalist.json IMPLANTS --folds 3,4\n"
        "  ichseg prepare compact DATA/datalist.json SMALL --size 384      a copy of few bytes, to train elsewhere",
    )
    prepare.add_argument("dataset", choices=["bcihm", "bhsd", "nifti", "phantom", "implants", "compact"])
    prepare.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="SOURCE OUTPUT; nifti: SCANS LABELS.csv OUTPUT; phantom: OUTPUT; implants, compact: DATALIST OUTPUT",
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
    prepare.add_argument("--size", type=int, help="pixels per side (default: phantom 256, compact 384)")
    prepare.add_argument("--slices", type=int, default=24, help="phantom: slices per scan (default 24)")
    prepare.add_argument(
        "--folds", help="implants: into healthy scans of these folds (default 3,4); compact: only these (default: all)"
    )
    prepare.add_argument("--per-scan", type=int, default=2, help="implants: variants of each scan (default 2)")
    prepare.add_argument(
        "--family",
        choices=["shapes", "fields"],
        default="shapes",
        help="implants: shapes, as training draws them (default), or fields, which no training uses",
    )

    classifier = command(
        "train-classifier",
        commands.train_classifier,
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

    train = command(
        "train",
        commands.train,
        "Train a whole preset from slice labels, segment the held-out scans and measure; resumes where it stopped.",
        "ichseg train --datalist DATA/datalist.json --output runs/recommended\n"
        "  ichseg train --datalist DATA/datalist.json --output runs/crossed --cross-validate --precision bf16\n"
        "  ichseg train --datalist DATA/datalist.json --output runs/paper --preset paper --device cuda\n"
        "  ichseg train --datalist DATA/datalist.json --output runs/two --members 2 --member 0 &\n"
        "  ichseg train --datalist DATA/datalist.json --output runs/two --members 2 --member 1 & wait\n"
        "  ichseg train --datalist DATA/datalist.json --output runs/two --members 2",
    )
    train.add_argument("--datalist", required=True, metavar="JSON")
    train.add_argument("--output", required=True, metavar="DIR", help="model.pt, masks/ and results/ go there")
    train.add_argument(
        "--preset",
        choices=PRESET_CHOICES,
        default="recommended",
        help="recommended (default): one network, implants and slice labels; paper: the published configuration",
    )
    train.add_argument(
        "--cache", metavar="DIR", help="packed slices and implants, to be shared by several runs (default: OUTPUT)"
    )
    train.add_argument("--members", type=int, default=1, help="recommended: networks to average (default 1)")
    train.add_argument(
        "--member", type=int, metavar="K", help="train only member K, from 0; without it afterwards, all are joined"
    )
    train.add_argument(
        "--test-folds", default=commands.TEST_FOLDS, help="neither trained on nor watched (default %(default)s)"
    )
    train.add_argument(
        "--cross-validate", action="store_true", help="once per fold, each held out in turn; figures over all scans"
    )
    train.add_argument(
        "--fold",
        type=int,
        metavar="K",
        help="with --cross-validate: train for fold K alone; without it afterwards, all are measured",
    )
    _training_options(train)

    pseudo = command(
        "pseudo-label",
        commands.pseudo_label,
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
    pseudo.add_argument("--overwrite", action="store_true", help="do every scan anew, whatever was done before")
    pseudo.add_argument("--size", type=int, help="default: as the classifiers were trained")
    _run_options(pseudo)

    segmenter = command(
        "train-segmenter",
        commands.train_segmenter,
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
        commands.segment,
        "Outline hemorrhage in every scan of a folder: OUTPUT/NAME_ich.nii.gz and OUTPUT/results.csv.",
        "ichseg segment SCANS MASKS\n  ichseg segment scan.nii.gz MASKS --weights runs/unet/model.pt --device cuda:0",
    )
    segment.add_argument("input", metavar="INPUT", help="a folder of .nii or .nii.gz scans, or one file")
    segment.add_argument("output", metavar="OUTPUT", help="folder for masks and results.csv")
    segment.add_argument("--weights", metavar="FILE", help="default: the model shipped with ichseg")
    segment.add_argument(
        "--threshold", type=float, help="on the probability of hemorrhage (default: as fitted with the weights)"
    )
    segment.add_argument(
        "--min-volume", type=float, metavar="ML", help="leave out smaller lesions (default: as the weights say)"
    )
    segment.add_argument(
        "--save-probabilities", action="store_true", help="write NAME_probability.nii.gz (float32) too"
    )
    segment.add_argument("--no-report", action="store_true", help="no report.html and no pictures for it")
    segment.add_argument(
        "--overwrite", action="store_true", help="do every scan anew, whatever an earlier run has done"
    )
    segment.add_argument("--shard", metavar="K/N", help="do one part of the folder, such as 1/4; then 'ichseg merge'")
    segment.add_argument("--size", type=int, help="default: as the weights were trained")
    _run_options(segment)

    measure = command(
        "measure",
        commands.measure,
        "Measure masks that are there already: mL, lesions, ABC/2, and the side if their scans are given.",
        "ichseg measure MASKS --output DIR\n  ichseg measure MASKS --images SCANS --output DIR",
    )
    measure.add_argument("masks", metavar="MASKS", help="a folder of masks, or one file; above 0 is hemorrhage")
    measure.add_argument("--images", metavar="SCANS", help="their scans: tells left from right by the head's midline")
    measure.add_argument("--output", metavar="DIR", help="for measures.csv and measures.jsonl")

    merge = command(
        "merge",
        commands.merge,
        "Join the tables of 'segment --shard' into results.csv, results.jsonl and report.html.",
        "ichseg segment SCANS MASKS --shard 1/2 & ichseg segment SCANS MASKS --shard 2/2\n  ichseg merge MASKS",
    )
    merge.add_argument("output", metavar="OUTPUT", help="the folder that the parts were written to")

    check = command(
        "check",
        commands.check,
        "Examine a bundle, config, datalist or weight file before anything of it runs; one line per finding.",
        "ichseg check downloaded_bundle\n  ichseg check configs/inference.yaml models/model.pt DATA/datalist.json\n\n"
        "exit codes: 0 nothing found, 1 something found, 2 no such file\n"
        "What passes holds nothing known to be harmful; whether to trust its author remains yours to say.",
    )
    check.add_argument("paths", nargs="+", metavar="PATH", help="bundle folder, config, datalist or weights")
    check.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="what '_target_' may name besides; may be repeated",
    )

    evaluate = command(
        "evaluate",
        commands.evaluate,
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
        commands.experiment,
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
    experiment.add_argument("--train-folds", default=commands.TRAIN_FOLDS, help="default: %(default)s")
    experiment.add_argument("--val-folds", default=commands.VAL_FOLDS, help="default: %(default)s")
    experiment.add_argument("--test-folds", default=commands.TEST_FOLDS, help="default: %(default)s")
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
        commands.demo,
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
    parser.add_argument("--size", type=int, help="pixels per side of the network's slices (default: the config's)")
    parser.add_argument("--epochs", type=int, help="at most (default: the config's)")
    parser.add_argument("--train-folds", default=commands.TRAIN_FOLDS, help="default: %(default)s")
    parser.add_argument("--val-folds", default=commands.VAL_FOLDS, help="default: %(default)s")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that augment slices; for the recommended preset, that draw implants (default: the config's)",
    )
    _run_options(parser)
