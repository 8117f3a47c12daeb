"""Training on ignite engines: checkpoints that resume, early stopping, a history per epoch."""

from ichseg.training.augment import Augmentation
from ichseg.training.checkpoint import TrainingCheckpoint
from ichseg.training.context_loss import ContextLoss
from ichseg.training.distributed import exit_at_once, is_rank_zero, join_process_group, leave_process_group
from ichseg.training.history import EpochHistory, PrintMetrics
from ichseg.training.implant_loss import ImplantLoss, batch_with_mask
from ichseg.training.outputs import logits_and_labels, score_and_label, slice_score_and_label
from ichseg.training.steps import AlsoHandlers, ClipGradients, warm_cosine
from ichseg.training.teacher import MovingAverage, PrepareMixture
from ichseg.training.weak_loss import WeakSegmentationLoss

__all__ = [
    "AlsoHandlers",
    "Augmentation",
    "ClipGradients",
    "ContextLoss",
    "EpochHistory",
    "ImplantLoss",
    "MovingAverage",
    "PrepareMixture",
    "PrintMetrics",
    "TrainingCheckpoint",
    "WeakSegmentationLoss",
    "batch_with_mask",
    "exit_at_once",
    "is_rank_zero",
    "join_process_group",
    "leave_process_group",
    "logits_and_labels",
    "score_and_label",
    "slice_score_and_label",
    "warm_cosine",
]
