"""The U-Nets that segment: the recommended one, and those that learn from pseudo-masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets import BasicUNet, UNet
from torch import nn

from ichseg.anatomy import Reference
from ichseg.data.subtypes import SUBTYPE_ORDER
from ichseg.defaults import ARCHITECTURES, MASK_ARCHITECTURES, SCORING_ARCHITECTURES, TRANSFER_ARCHITECTURES
from ichseg.errors import IchsegError, one_line
from ichseg.networks.context_unet import CHANNELS, SUSPICIOUS_SHARE, ContextUNet, NetworkEnsemble
from ichseg.networks.lite_unet import DECODER, LiteContextUNet, load_encoder
from ichseg.networks.weights import check_settings, load_weights, read_settings, with_overrides

# Which architectures a pipeline (a config of the bundle) can run.
PIPELINES = {
    "inference.yaml": SCORING_ARCHITECTURES,
    "inference_paper.yaml": MASK_ARCHITECTURES + TRANSFER_ARCHITECTURES,
}
# Of those that score slices as well: the U-Net's levels, or the decoder's.
USUAL_CHANNELS = {"context": CHANNELS, "lite": DECODER}


@dataclass(frozen=True)
class SegmenterSettings:
    """All that must be known of a segmenter to use its weights as they were meant; it travels in the weight file.

    Attributes:
        architecture: one of :data:`ARCHITECTURES`.
        size: pixels per side of the network's slices.
        window_level, window_width: HU.
        threshold: on the probability of hemorrhage, strict.
        min_volume_ml: smaller lesions are left out; 0 leaves out none.
        fill_holes_mm2: holes of lesions within a slice are filled if no larger; 0 fills none.
        channels: of the U-Net's levels, or of the decoder; None: :data:`USUAL_CHANNELS`. This and what follows is for
            ``"context"`` and ``"lite"`` only.
        members: networks whose logits are averaged.
        flip: average with the mirrored slice too.
        suspicious_share: of a slice's pixels that count as its most suspicious, in training as in scoring.
        score_slope, score_offset: of Platt scaling, from a slice's score to its probability.
        patient_slope, patient_offset: from a scan's largest slice score to the probability that it shows hemorrhage;
            None: not fitted.
        fusion_weight: of neighboring slices in the slice's score; 0: every slice alone.
        support_weight: how far marks are lowered that neighboring slices do not support, see
            :func:`ichseg.context.support_pixels`; 0: not at all.
        restore_bone: undo a narrow window's clipping of bone, see :class:`ichseg.transforms.RestoreBone`.
        slab_mm: thinner slices are averaged to this thickness, see :class:`ichseg.transforms.AverageSlabs`; 0: not.
        remove_cupping: make brain as bright near bone as in its middle, see :class:`ichseg.transforms.RemoveCupping`.
        subtype_head: hemorrhage subtypes (:data:`ichseg.data.subtypes.SUBTYPE_ORDER`) are scored as well.
        reference: how the training scans look, see :class:`ichseg.anatomy.Reference`; None: not known.
    """

    architecture: str
    size: int
    window_level: float
    window_width: float
    threshold: float = 0.5
    min_volume_ml: float = 0.0
    fill_holes_mm2: float = 0.0
    channels: Sequence[int] | None = None
    members: int = 1
    flip: bool = True
    suspicious_share: float = SUSPICIOUS_SHARE
    score_slope: float = 1.0
    score_offset: float = 0.0
    patient_slope: float | None = None
    patient_offset: float = 0.0
    fusion_weight: float = 0.5
    support_weight: float = 0.0
    restore_bone: bool = False
    slab_mm: float = 0.0
    remove_cupping: bool = False
    subtype_head: bool = False
    reference: Mapping[str, Sequence[Any]] | None = None

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise IchsegError(
                f"architecture '{self.architecture}' is unknown; choose one of {', '.join(ARCHITECTURES)}"
            )
        least = {
            "size": 1,
            "window_width": 1,
            "members": 1,
            "min_volume_ml": 0,
            "fill_holes_mm2": 0,
            "fusion_weight": 0,
            "slab_mm": 0,
        }
        check_settings(
            self,
            **{name: (value, inf) for name, value in least.items()},
            suspicious_share=(0, 1),
            support_weight=(0, 1),
        )
        if self.architecture not in SCORING_ARCHITECTURES and (self.subtype_head or self.support_weight):
            raise IchsegError(f"architecture '{self.architecture}' has neither subtype_head nor support_weight")
        if self.reference is not None:
            try:
                Reference(**self.reference).distance(np.array(self.reference["mean"]))
            except (TypeError, ValueError, KeyError) as error:
                raise IchsegError(f"reference is not usable ({one_line(error)})") from None
        channels = USUAL_CHANNELS.get(self.architecture, CHANNELS) if self.channels is None else self.channels
        object.__setattr__(self, "channels", list(channels))

    @property
    def pipeline(self) -> str:
        """The config of the bundle ``ich_segmentation`` that runs this architecture."""
        return next(name for name, architectures in PIPELINES.items() if self.architecture in architectures)

    @property
    def in_channels(self) -> int:
        """Of the network: 3 where slices are scored, for a slice between its neighbors, else 1."""
        return 3 if self.architecture in SCORING_ARCHITECTURES else 1


def segmenter_settings(weights: str | Path, pipeline: str | None = None, **overrides: Any) -> SegmenterSettings:
    """The settings in a weight file, with explicit values in place of some; None leaves one.

    No file is read if a pipeline gives every value, which a network of your own needs.

    Args:
        weights: the file.
        pipeline: config of the bundle that is to run them; None: any.
        **overrides: by name of :class:`SegmenterSettings`.

    Raises:
        IchsegError: the file has no settings, or those of another pipeline.
    """
    if pipeline is not None and overrides and None not in overrides.values():
        return SegmenterSettings(**{"architecture": PIPELINES[pipeline][0], **overrides})
    settings = with_overrides(read_settings(weights, SegmenterSettings), overrides, weights)
    if pipeline is not None and settings.pipeline != pipeline:
        raise IchsegError(
            f"{weights}: these weights (architecture '{settings.architecture}') are run by {settings.pipeline}, not by "
            f"{pipeline}"
        )
    return settings


def context_network(
    architecture: str = "context",
    channels: Sequence[int] | None = None,
    dropout: float = 0.3,
    encoder_weights: str | Path | None = None,
    subtype_head: bool = False,
) -> nn.Module:
    """A network of three slices that outlines the middle one and scores it, (B, 3, H, W) -> (B, 3, H, W).

    Args:
        architecture: ``"context"`` or ``"lite"``.
        channels: None: :data:`USUAL_CHANNELS`.
        dropout: before the slice's score.
        encoder_weights: what the encoder of ``"lite"`` starts from, see :func:`load_encoder`.
        subtype_head: five more channels, the logits of :data:`ichseg.data.subtypes.SUBTYPE_ORDER`.

    Raises:
        IchsegError: another architecture, or one that takes no ``encoder_weights``.
    """
    if architecture not in USUAL_CHANNELS:
        raise IchsegError(f"architecture '{architecture}' scores no slices; choose one of {', '.join(USUAL_CHANNELS)}")
    channels = USUAL_CHANNELS[architecture] if channels is None else channels
    subtypes = len(SUBTYPE_ORDER) if subtype_head else 0
    if architecture == "lite":
        if len(channels) != len(DECODER):
            raise IchsegError(f"architecture 'lite' needs {len(DECODER)} channels, of its decoder, not {len(channels)}")
        return load_encoder(LiteContextUNet(channels, dropout, subtypes), encoder_weights)
    if encoder_weights not in (None, "auto"):
        raise IchsegError(f"encoder_weights is for architecture 'lite', not for '{architecture}'")
    return ContextUNet(3, channels, dropout, subtypes)


def segmenter(
    architecture: str = "small",
    channels: Sequence[int] | None = None,
    members: int = 1,
    flip: bool = False,
    subtype_head: bool = False,
) -> nn.Module:
    """A 2-D U-Net with random weights, (B, 1, H, W) -> logits (B, 2, H, W); where slices are scored, 3 -> 3 channels.

    Args:
        architecture: ``"context"``: :class:`ichseg.networks.ContextUNet`.
            ``"lite"``: :class:`ichseg.networks.LiteContextUNet`, with an encoder that can start from ImageNet.
            ``"small"``: MONAI's residual UNet with 1.6 million parameters, which a CPU can run.
            ``"paper"``: the standard U-Net, up to 1,024 channels, 31 million parameters (the paper says "U-Net" and
            no more; MONAI's BasicUNet with batch normalization).
            ``"label_efficient"``, with ``"_attention"`` or without:
            :class:`ichseg.methods.label_efficient.LabelEfficientSegmenter`.
        channels: of the levels, or of the decoder; this and what follows where slices are scored only.
        members: networks whose logits are averaged.
        flip: average with the mirrored slice too.
        subtype_head: five more channels, the logits of :data:`ichseg.data.subtypes.SUBTYPE_ORDER`.

    Raises:
        IchsegError: unknown architecture.
    """
    if architecture in USUAL_CHANNELS:
        return NetworkEnsemble(
            [context_network(architecture, channels, subtype_head=subtype_head) for _ in range(members)], flip
        )
    if architecture == "small":
        return UNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=2,
            channels=(16, 32, 64, 128, 256),
            strides=(2, 2, 2, 2),
            num_res_units=2,
            norm="batch",
        )
    if architecture == "paper":
        return BasicUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=2,
            features=(64, 128, 256, 512, 1024, 64),
            act=("relu", {"inplace": True}),
            norm="batch",
        )
    if architecture in TRANSFER_ARCHITECTURES:
        from ichseg.methods.label_efficient.unet import LabelEfficientSegmenter  # which is made of our networks

        return LabelEfficientSegmenter(architecture == "label_efficient_attention")
    raise IchsegError(f"architecture '{architecture}' is unknown; choose one of {', '.join(ARCHITECTURES)}")


def segmenter_of(made: SegmenterSettings) -> nn.Module:
    """The network that settings describe, with random weights."""
    return segmenter(made.architecture, made.channels, made.members, made.flip, made.subtype_head)


def trained_segmenter(
    weights: str | Path | None, device: torch.device | str = "cpu", like: Mapping[str, Any] | None = None
) -> nn.Module | None:
    """The network of a weight file, as its settings describe it, on a device; None for no file.

    Args:
        weights: the file.
        device: where it runs.
        like: settings it must have been made for, to be given the inputs of another network.

    Raises:
        IchsegError: the file cannot be read, has no settings, scores no slices, or was made for other inputs.
    """
    if weights is None:
        return None
    made = read_settings(weights, SegmenterSettings)
    if made.architecture not in SCORING_ARCHITECTURES:
        raise IchsegError(f"{weights}: architecture '{made.architecture}' scores no slices")
    for name, value in (like or {}).items():
        if (own := getattr(made, name)) != value:
            raise IchsegError(f"{weights}: trained with {name} {own}, but this run uses {value}")
    return load_weights(segmenter_of(made), weights).eval().to(device)
