"""A slice classifier over MONAI's SwinTransformer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn

from ichseg.errors import IchsegError

PATCH = 4  # pixels per side of a token
# Name -> width of the first stage, blocks and heads of the four stages.
SIZES: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "swin_base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),  # the authors' (Liu et al. 2021, Swin-B)
    "swin_tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_nano": (32, (2, 2, 2, 2), (2, 4, 8, 16)),  # ours, for CPUs
}


class SwinSliceClassifier(nn.Module):
    """(B, C, H, W) -> logits (B, classes): SwinTransformer, normalization, mean over tokens, linear layer.

    MONAI's transformer halves once more after the fourth stage; that step is left out, as in Swin-B.

    Args:
        size: a name of :data:`SIZES`.
        in_channels: CT windows.
        num_classes: 2: no hemorrhage, hemorrhage; 6: any hemorrhage and the five types.
        window: tokens per side of a window; the authors' 12 cuts 384 x 384 pixels without a rest.

    Attributes:
        explains_any: True makes the six classes two, with a logit of 0 for none and that of any hemorrhage, as maps and
            masks are made for.
    """

    explains_any = False

    def __init__(self, size: str = "swin_tiny", in_channels: int = 3, num_classes: int = 2, window: int = 12) -> None:
        super().__init__()
        if size not in SIZES:
            raise IchsegError(f"size '{size}' is unknown; choose one of {', '.join(SIZES)}")
        width, depths, heads = SIZES[size]
        self.swin = SwinTransformer(
            in_chans=in_channels,
            embed_dim=width,
            window_size=(window, window),
            patch_size=(PATCH, PATCH),
            depths=depths,
            num_heads=heads,
            patch_norm=True,
            spatial_dims=2,
        )
        self.swin.layers4[0].register_module("downsample", None)
        last = width * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(last)
        self.head = nn.Linear(last, num_classes)
        self.last_norm = f"swin.layers4.0.blocks.{depths[-1] - 1}.norm1"

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.swin(x, normalize=False)[-1].flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.norm(tokens).mean(dim=1))
        return torch.stack([torch.zeros_like(logits[:, 0]), logits[:, 0]], dim=1) if self.explains_any else logits


def attention_bytes(size: str, pixels: Sequence[int], window: int = 12, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of all attention matrices of one image, which the backward pass keeps: bounds the batch.

    Args:
        size: a name of :data:`SIZES`.
        pixels: (H, W).
        window: tokens per side of a window.
        dtype: of the attention.
    """
    _, depths, heads = SIZES[size]
    total = 0
    for stage, (blocks, count) in enumerate(zip(depths, heads, strict=True)):
        grid = [-(-side // (PATCH * 2**stage)) for side in pixels]
        sides = [min(window, side) for side in grid]
        windows = [-(-side // own) for side, own in zip(grid, sides, strict=True)]
        total += blocks * count * windows[0] * windows[1] * (sides[0] * sides[1]) ** 2
    return total * dtype.itemsize
