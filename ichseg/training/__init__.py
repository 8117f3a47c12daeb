"""Training on ignite engines: checkpoints that resume, early stopping, a history per epoch."""

from ichseg.training.checkpoint import TrainingCheckpoint
from ichseg.training.distributed import is_rank_zero, join_process_group, leave_process_group
from ichseg.training.history import EpochHistory, PrintMetrics
from ichseg.training.implant_loss import ImplantLoss, batch_with_mask
from ichseg.training.outputs import logits_and_labels, score_and_label
from ichseg.training.weak_loss import WeakSegmentationLoss

__all__ = [
    "EpochHistory",
    "ImplantLoss",
    "PrintMetrics",
    "TrainingCheckpoint",
    "WeakSegmentationLoss",
    "batch_with_mask",
    "is_rank_zero",
    "join_process_group",
    "leave_process_group",
    "logits_and_labels",
    "score_and_label",
]
