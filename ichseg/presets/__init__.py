"""Named ways from a datalist to a model, stage by stage: the paper's, and the recommended one."""

from ichseg.presets.preset import PRESETS, Plan, complete, cross_validate, evaluate, segment, train_fold, train_preset

__all__ = ["PRESETS", "Plan", "complete", "cross_validate", "evaluate", "segment", "train_fold", "train_preset"]
