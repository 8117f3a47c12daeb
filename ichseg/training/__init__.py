"""Training on ignite engines: checkpoints that resume, early stopping, a history per epoch."""

from ichseg.training.augment import Augmentation
from ichseg.training.checkpoint import TrainingCheckpoint
from ichseg.training.context_loss import ContextLoss
from ichseg.training.cuda_graphs import GraphedInferer
from ichseg.training.distributed import (
    WholeBatchLoss,
    data_parallel,
    exit_at_once,
    is_lost_process,
    join_process_group,
    leave_process_group,
    only_first_process_goes_on,
)
from ichseg.training.fit import FitSettings, checked_start, fit
from ichseg.training.head_first import HeadFirst
from ichseg.training.history import EpochBar, EpochHistory, PrintMetrics
from ichseg.training.implant_loss import ImplantLoss, batch_with_mask
from ichseg.training.judge import judged_pool
from ichseg.training.masked import PrepareMasked, ReplaceWeights, run_folder, slices_of
from ichseg.training.mixture import SliceMixture
from ichseg.training.outputs import MetricOf, logits_and_labels, lower_is_better, score_and_label, slice_score_and_label
from ichseg.training.same_run import run_settings, settings_of
from ichseg.training.steps import AlsoHandlers, ClipGradients, poly_decay, warm_cosine
from ichseg.training.teacher import MovingAverage, PrepareMixture
from ichseg.training.weak_loss import WeakSegmentationLoss

__all__ = [
    "AlsoHandlers",
    "Augmentation",
    "ClipGradients",
    "ContextLoss",
    "EpochBar",
    "EpochHistory",
    "FitSettings",
    "GraphedInferer",
    "HeadFirst",
    "ImplantLoss",
    "MetricOf",
    "MovingAverage",
    "PrepareMasked",
    "PrepareMixture",
    "PrintMetrics",
    "ReplaceWeights",
    "SliceMixture",
    "TrainingCheckpoint",
    "WeakSegmentationLoss",
    "WholeBatchLoss",
    "batch_with_mask",
    "checked_start",
    "data_parallel",
    "exit_at_once",
    "fit",
    "is_lost_process",
    "join_process_group",
    "judged_pool",
    "leave_process_group",
    "logits_and_labels",
    "lower_is_better",
    "only_first_process_goes_on",
    "poly_decay",
    "run_folder",
    "run_settings",
    "score_and_label",
    "settings_of",
    "slice_score_and_label",
    "slices_of",
    "warm_cosine",
]
