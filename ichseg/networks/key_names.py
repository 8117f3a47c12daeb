"""Names that other libraries give the tensors of our backbones."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

_LITE_FIRST = (0, 1, 3, 5, 8, 11, 15)  # number of the first block of every stage


def _next(match: re.Match[str]) -> str:
    """Block M of a later ConvNeXt stage is number M + 1 here: halving is the stage's first part."""
    stage, block, rest = match.groups()
    return f"stages.{stage}.{int(block) + (stage != '0')}.{rest}"


_CONVNEXT_PARTS = (
    (r"\.(?:conv_dw|dwconv)\.", ".depthwise."),
    (r"\.(?:mlp\.fc1|pwconv1)\.", ".expand."),
    (r"\.(?:mlp\.fc2|pwconv2)\.", ".project."),
    (r"\.(?:mlp\.)?grn\.(?:weight|gamma)$", ".response.weight"),
    (r"\.(?:mlp\.)?grn\.(?:bias|beta)$", ".response.bias"),
)
# Library and network -> what to replace by what, one after the other.
RULES: dict[str, tuple[tuple[str, object], ...]] = {
    "torchvision DenseNet": (
        (r"(denselayer\d+)\.(norm|conv)\.?(\d)\.", r"\1.layers.\2\3."),
        (r"^classifier\.", "class_layers.out."),
    ),
    "timm ConvNeXt V2": (
        (r"^stages\.(\d)\.downsample\.", r"stages.\1.0."),
        (r"^stages\.(\d)\.blocks\.(\d+)\.(.*)", _next),
        *_CONVNEXT_PARTS,
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    ),
    "authors' ConvNeXt V2": (
        (r"^stages\.(\d)\.(\d+)\.(.*)", _next),
        (r"^downsample_layers\.0\.", "stem."),
        (r"^downsample_layers\.([1-3])\.", r"stages.\1.0."),
        *_CONVNEXT_PARTS,
    ),
    "timm EfficientNet-Lite": (
        (r"^conv_stem\.", "_conv_stem."),
        (r"^bn1\.", "_bn0."),
        (r"^conv_head\.", "_conv_head."),
        (r"^bn2\.", "_bn1."),
        (r"^classifier\.", "_fc."),
        (r"^blocks\.0\.0\.conv_pw\.", "_blocks.0._project_conv."),
        (r"^blocks\.0\.0\.bn1\.", "_blocks.0._bn1."),
        (r"^blocks\.0\.0\.bn2\.", "_blocks.0._bn2."),
        (r"^blocks\.(\d)\.(\d)\.", lambda m: f"_blocks.{_LITE_FIRST[int(m[1])] + int(m[2])}."),
        (r"\.conv_pw\.", "._expand_conv."),
        (r"\.conv_dw\.", "._depthwise_conv."),
        (r"\.conv_pwl\.", "._project_conv."),
        (r"^(_blocks\.\d+)\.bn1\.", r"\1._bn0."),
        (r"^(_blocks\.\d+)\.bn2\.", r"\1._bn1."),
        (r"^(_blocks\.\d+)\.bn3\.", r"\1._bn2."),
    ),
}


def renamed(state: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """A state dict under the names that fit a network best: as they are, or by one of :data:`RULES`.

    Args:
        state: of a weight file.
        own: names of the network's tensors.
    """
    best, found = dict(state), sum(key in own for key in state)
    for rules in RULES.values():
        other = {_by(rules, key): value for key, value in state.items()}
        if (count := sum(key in own for key in other)) > found:
            best, found = other, count
    return best


def _by(rules: tuple[tuple[str, object], ...], key: str) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)  # type: ignore[call-overload]
    return key
