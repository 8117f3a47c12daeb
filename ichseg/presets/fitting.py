"""What is fitted after training: probabilities and the threshold, by slice labels; and how the training scans look."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from ichseg.anatomy import Reference, appearance
from ichseg.anatomy.appearance import FEWEST_SCANS
from ichseg.context import fuse_scores, support_pixels
from ichseg.data.packed import PackedScans, PackedSlices
from ichseg.data.slices import neighbors
from ichseg.errors import IchsegError
from ichseg.io import spacing_mm
from ichseg.metrics import without_small_lesions
from ichseg.networks import (
    SegmenterSettings,
    load_weights,
    read_settings,
    save_weights,
    segmenter_of,
    slice_scores,
)
from ichseg.progress import progress

logger = logging.getLogger(__name__)
# A negative slice that is touched costs trust: so many of them may be, on the scans the score is fitted on.
MOST_NEGATIVES = 0.02
# One scan that the network gets wrong from end to end, such as an opened head, must not set the threshold for all:
# no more of its negative slices than this share count as touched.
MOST_OF_A_SCAN = 0.1
# Smaller lesions are left out: weak evidence over a large lesion is worth more than strong evidence at a point, so the
# threshold can be the lower for it.
SPECK_ML = 0.1
HOLE_MM2 = 100.0
FEWEST_OF_A_KIND = 3  # scans with and without hemorrhage
THRESHOLDS = tuple(round(0.01 * step, 2) for step in range(5, 96))
BATCH = 8


def fit_score(
    weights: Path,
    packed: PackedScans,
    device: torch.device,
    reference: Reference | None = None,
    output: Path | None = None,
) -> None:
    """Fit the probabilities of slice and scan and the threshold on slice labels, and write them into the weight file.

    Platt scaling of the scores that :class:`ichseg.transforms.SliceScoredProbability` uses; and the smallest threshold
    (of .05 to .95) at which at most 2 % of the slices labeled negative are touched by a lesion that is not too small;
    of one scan at most a tenth of these slices counts.

    Args:
        weights: of the joined members.
        packed: scans nothing was trained on.
        device: where the network runs.
        reference: how the training scans look, for the weight file as well.
        output: the weight file that is made; None: ``weights`` itself.

    Raises:
        IchsegError: the scans lack slices of either label.
    """
    labels = packed.labels > 0
    if labels.all() or not labels.any():
        raise IchsegError(f"{weights}: fitting the score needs validation slices with and without hemorrhage")
    settings = read_settings(weights, SegmenterSettings)
    network = segmenter_of(settings)
    load_weights(network, weights).eval().to(device)
    scores, pixels = score_scans(network, packed, settings, device)
    slope, offset = platt(scores, labels)
    largest = np.array([scores[packed.scan(i)].max() for i in range(len(packed.cases))])
    any_label = np.array([labels[packed.scan(i)].any() for i in range(len(packed.cases))])
    patient = platt(largest, any_label) if min(any_label.sum(), (~any_label).sum()) >= FEWEST_OF_A_KIND else (0.0, 0.0)
    if patient[0] <= 0:  # a few scans in the wrong order must not turn the order of all others
        logger.warning("too few or inconsistent scans to fit a scan-level probability; using the slice-level fit")
        patient = slope, offset
    bleeds = 1 / (1 + np.exp(-(slope * scores + offset)))

    def allowed(threshold: float) -> bool:
        touched = touched_slices(pixels * bleeds[:, None, None] > threshold, packed)
        return negatives_touched(touched, packed) <= MOST_NEGATIVES

    # What is touched at a threshold is touched at every smaller one.
    place = bisect_left(THRESHOLDS, True, key=allowed)
    if place == len(THRESHOLDS):
        place -= 1
        logger.warning("more than 2%% of negative slices have a prediction even at threshold %s", THRESHOLDS[place])
    fitted: dict[str, Any] = {
        "score_slope": round(slope, 4),
        "score_offset": round(offset, 4),
        "patient_slope": round(patient[0], 4),
        "patient_offset": round(patient[1], 4),
        "threshold": THRESHOLDS[place],
        "min_volume_ml": SPECK_ML,
        "fill_holes_mm2": HOLE_MM2,
    }
    logger.info("fitted on %d scans: %s", len(packed.cases), fitted)
    fitted["reference"] = None if reference is None else vars(reference)
    save_weights(output or weights, network.cpu().state_dict(), replace(settings, **fitted))


def fit_reference(
    data: Sequence[Mapping[str, Any]], transform: Callable[[dict[str, Any]], dict[str, Any]]
) -> Reference | None:
    """How scans look, for :class:`ichseg.transforms.CompareAppearanced`; None for too few with a brain.

    Args:
        data: the training scans.
        transform: leaves ``image`` as (1, X, Y, Z) MetaTensor in HU, slices along the last axis, nothing evened out.
    """
    measured = []
    for scan in progress(data, "measuring appearance"):
        image = transform(dict(scan))["image"]
        pixel = float(np.mean(spacing_mm(np.asarray(image.affine))[:2]))
        measured.append(appearance(image.as_tensor()[0].movedim(-1, 0).numpy(), pixel))
    found = [one for one in measured if one is not None]
    return Reference.of(found) if len(found) >= FEWEST_SCANS else None


def touched_slices(masks: np.ndarray, packed: PackedScans) -> np.ndarray:
    """(slices, H, W) masks of a pack -> (slices,) bool: which hold some of a lesion that is no speck."""
    found = np.zeros(len(masks), bool)
    for number in range(len(packed.cases)):
        where = packed.scan(number)
        pixel, step = float(packed.pixel_mm[number]), float(packed.step_mm[number])
        kept = without_small_lesions(masks[where], np.diag([step, pixel, pixel, 1.0]), SPECK_ML, slice_axis=0)
        found[where] = kept.any(axis=(1, 2))
    return found


def negatives_touched(touched: np.ndarray, packed: PackedScans) -> float:
    """Share of the negative slices of a pack that are touched, where a scan counts with a tenth of its own at most."""
    counted, every = 0.0, 0
    for number in range(len(packed.cases)):
        negative = packed.labels[packed.scan(number)] <= 0
        counted += min(touched[packed.scan(number)][negative].sum(), MOST_OF_A_SCAN * negative.sum())
        every += int(negative.sum())
    return float(counted / every)


@torch.no_grad()
def score_scans(
    network: torch.nn.Module, packed: PackedScans, settings: SegmenterSettings, device: torch.device | str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """(slices,) fused scores, and (slices, H, W) float16 probabilities of the pixels, of every slice of a pack."""
    slices = PackedSlices(packed, settings.window_level, settings.window_width)
    own, pixels = [], []
    for start in progress(range(0, len(slices), BATCH), "scoring slices"):
        some = [slices[i]["image"] for i in range(start, min(start + BATCH, len(slices)))]
        logits = network(torch.stack(some).contiguous(memory_format=torch.channels_last).to(device)).float().cpu()
        own.append(slice_scores(logits, settings.suspicious_share))
        pixels.append((logits[:, 1] - logits[:, 0]).half())
    alone, outlined = torch.cat(own), torch.cat(pixels)
    fused, found = [], []
    for number in range(len(packed.cases)):
        where = packed.scan(number)
        beside = neighbors(where.stop - where.start, float(packed.step_mm[number]))
        fused.append(fuse_scores(alone[where], weight=settings.fusion_weight))
        found.append(support_pixels(outlined[where].float(), *beside, settings.support_weight).sigmoid().half())
    return torch.cat(fused).numpy().astype(float), torch.cat(found).numpy()


def platt(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and offset with which ``sigmoid(slope * score + offset)`` is most likely to have given the labels.

    Platt 1999, "Probabilistic outputs for support vector machines"; his smoothed targets keep the fit finite where
    scores tell labels apart without error. Both labels weigh the same in sum: the probability is that of a slice which
    bleeds as often as not, however rare hemorrhage is where the labels come from. Both are needed.
    """
    positive, negative = int(labels.sum()), int((~labels).sum())
    target = np.where(labels, (positive + 1) / (positive + 2), 1 / (negative + 2))
    weight = np.where(labels, 0.5 / positive, 0.5 / negative)

    def loss(values: np.ndarray) -> float:
        logits = values[0] * scores + values[1]
        return float((weight * (np.logaddexp(0, logits) - target * logits)).sum())

    slope, offset = minimize(loss, [1.0, 0.0], method="Nelder-Mead").x
    return float(slope), float(offset)
