"""HGI-SAM on one page, and the two maps it is compared with.

Rasoulian, Salari, Xiao: "Weakly supervised intracranial hemorrhage segmentation using head-wise gradient-infused
self-attention maps from a Swin transformer in categorical learning", MELBA 2023:012, arXiv 2304.04902.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ichseg.cam import CAMExtractor, min_max
from ichseg.context import upsample
from ichseg.methods.hgi_sam.attention import BlockAttention, paired
from ichseg.methods.hgi_sam.recorder import AttentionRecorder

INFUSED_STAGES = 3  # HGI-SAM leaves the fourth stage out; Swin-SAM takes all four


def hgi_sam_maps(
    images: Tensor, model: nn.Module, brain: Tensor | None = None, target: int = 1, gradients_at: str = "scores"
) -> tuple[Tensor, Tensor]:
    """Logits (B, classes) and HGI-SAM maps (B, H, W) in [0, 1].

    Args:
        images: (B, C, H, W), three CT windows in [0, 1].
        model: classifier over MONAI's SwinTransformer, such as :class:`SwinSliceClassifier`.
        brain: (B, H, W) bool; without it the skull dominates.
        target: class whose logit is explained.
        gradients_at: see :class:`AttentionRecorder`.
    """
    with AttentionRecorder(model, gradients_at) as recorder:
        logits, stages = recorder(images, target)
    return logits, hgi_sam(stages, images.shape[2:], brain)


def swin_sam_maps(images: Tensor, model: nn.Module, brain: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same without gradients: every head weighs alike, and all four stages count (MLCN 2022)."""
    with AttentionRecorder(model) as recorder:
        logits, stages = recorder(images, infused=False)
    return logits, swin_sam(stages, images.shape[2:], brain)


def swin_grad_cam_maps(
    images: Tensor, model: nn.Module, layer: str, brain: Tensor | None = None, target: int = 1
) -> tuple[Tensor, Tensor]:
    """Grad-CAM of the first normalization of the last block, whose tokens are laid out as a grid.

    Args:
        layer: name of that module, :attr:`SwinSliceClassifier.last_norm`.
    """
    with CAMExtractor(model, [layer], "grad_cam", target=target, reshape="channels_last") as extractor:
        logits, maps = extractor(images)
    return logits, _within(upsample(min_max(maps[layer]), images.shape[2:]), brain)


def hgi_sam(stages: Sequence[Sequence[BlockAttention]], size: Sequence[int], brain: Tensor | None = None) -> Tensor:
    """Maps (B, H, W) of the attention of four stages, of which the first three count."""
    return _product(stages[:INFUSED_STAGES], size, brain)


def swin_sam(stages: Sequence[Sequence[BlockAttention]], size: Sequence[int], brain: Tensor | None = None) -> Tensor:
    """Maps (B, H, W) of the attention of all stages."""
    return _product(stages, size, brain)


def _product(stages: Sequence[Sequence[BlockAttention]], size: Sequence[int], brain: Tensor | None) -> Tensor:
    # Of a stage: products of consecutive blocks, averaged, scaled to [0, 1], scaled up to the slice.
    maps = [upsample(min_max(paired([block.map for block in blocks])), size) for blocks in stages]
    return _within(torch.stack(maps).prod(dim=0), brain)


def _within(maps: Tensor, brain: Tensor | None) -> Tensor:
    """Nothing outside the brain, and the rest scaled to [0, 1]."""
    return min_max(maps if brain is None else maps * brain.to(maps))
