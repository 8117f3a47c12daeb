"""``ichseg train``: a whole preset, from a datalist to a model and its results."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ichseg.cli.options import datalist_option, given, progress, training_options
from ichseg.defaults import MEMBERS, PRESETS, TEST_FOLDS, TRAIN_FOLDS, VAL_FOLDS
from ichseg.errors import DONE, IchsegError

HELP = "Train a preset from slice labels, then segment and evaluate the held-out scans; resumes where it left off."
EXAMPLE = """ichseg train --datalist DATA/datalist.json --output runs/recommended
  ichseg train --datalist DATA/datalist.json --output runs/crossed --cross-validate --precision bf16
  ichseg train --datalist DATA/datalist.json --output runs/paper --preset paper --device cuda
  torchrun --nproc_per_node=4 -m ichseg train --datalist DATA/datalist.json --output runs/four --batch-size 4
  ichseg train --datalist DATA/datalist.json --output runs/two --members 2 --member 0 &
  ichseg train --datalist DATA/datalist.json --output runs/two --members 2 --member 1 & wait
  ichseg train --datalist DATA/datalist.json --output runs/two --members 2"""


def add_options(parser: argparse.ArgumentParser) -> None:
    datalist_option(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="for model.pt, masks/ and results/")
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default=PRESETS[0],
        help="recommended (default): one network, implants and slice labels; paper: the published configuration",
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="folder for packed slices and implants, which several runs can share (default: the output folder)",
    )
    parser.add_argument(
        "--members", type=int, default=MEMBERS, help="recommended preset: networks to average (default: %(default)s)"
    )
    parser.add_argument(
        "--member", type=int, metavar="K", help="train only member K, from 0; run again without it to join all members"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed; member K uses seed + K (default: 0)")
    parser.add_argument("--test-folds", default=TEST_FOLDS, help="test folds, never trained on (default: %(default)s)")
    parser.add_argument("--cross-validate", action="store_true", help="hold out each fold in turn")
    parser.add_argument(
        "--fold",
        type=int,
        metavar="K",
        help="with --cross-validate: train for fold K only; run again without it to evaluate all folds",
    )
    training_options(parser)


def run(args: argparse.Namespace) -> int:
    from ichseg.data.datalist import check_folds, check_patients, load_datalist
    from ichseg.overrides import check_numbers

    scans = load_datalist(args.datalist, require=("slice_labels",))
    if args.members < 1:
        raise IchsegError(f"--members must be at least 1, not {args.members}")
    if args.member is not None and not 0 <= args.member < args.members:
        raise IchsegError(f"--member {args.member} of --members {args.members}: members are numbered from 0")
    if args.seed < 0:
        raise IchsegError(f"--seed must not be negative, not {args.seed}")
    if args.fold is not None and not args.cross_validate:
        raise IchsegError("--fold needs --cross-validate")
    folds = (args.train_folds, args.val_folds, args.test_folds)
    if args.cross_validate and folds != (TRAIN_FOLDS, VAL_FOLDS, TEST_FOLDS):
        raise IchsegError(
            "--cross-validate holds out every fold in turn: leave out --train-folds, --val-folds and --test-folds"
        )
    if not args.cross_validate:
        check_folds(args.datalist, training=args.train_folds, validation=args.val_folds, test=args.test_folds)
    overrides = given(args, "size", "epochs", "batch_size")
    check_numbers({**overrides, "num_workers": args.workers})
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ  # started by torchrun
    if several and (args.preset != PRESETS[0] or (args.cross_validate and args.fold is None)):
        raise IchsegError(f"with torchrun, use --preset {PRESETS[0]}; with --cross-validate, add --fold K")
    from ichseg.presets import Plan, cross_validate, train_fold, train_preset
    from ichseg.training import exit_at_once, is_lost_process, join_process_group

    if several:
        join_process_group(args.device)
    plan = Plan(
        datalist=Path(args.datalist).resolve(),
        output=Path(args.output).resolve(),
        cache=None if args.cache is None else Path(args.cache).resolve(),
        train_folds=args.train_folds,
        val_folds=args.val_folds,
        test_folds=args.test_folds,
        members=args.members,
        member=args.member,
        seed=args.seed,
        settings=tuple(args.set),
        overrides=overrides,
        workers=args.workers,
        device=args.device,
        precision=args.precision,
        progress=progress,
    )
    try:
        if args.cross_validate:
            every = {scan["fold"] for scan in scans if "fold" in scan}
            check_patients(args.datalist, scans, {fold: str(fold) for fold in every})
            one = args.fold is not None
            made = train_fold(args.preset, plan, every, args.fold) if one else cross_validate(args.preset, plan, every)
        else:
            made = train_preset(args.preset, plan)
    except RuntimeError as error:
        if several and is_lost_process(error):
            raise IchsegError("another process of this training stopped; see its error message") from error
        raise
    alone = args.cross_validate or args.member is not None
    print(f"wrote {made}" if alone else f"wrote {made} and {plan.output / 'results'}")
    if several:
        exit_at_once()
    return DONE
