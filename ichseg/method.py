"""The published method on one page: Ma et al. 2025, doi 10.21037/qims-24-1462.

Arrays and networks in, pseudo-masks out; the U-Net that learns from them is trained elsewhere. The same pieces run in
the bundle ``ich_pseudo_segmentation`` (a test compares the masks), which adds files, batches, resuming and options.
Where the print is wrong or silent, the piece that is called says what was chosen and why.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ichseg.cam import CAMExtractor, layer_cam, min_max, principal_component, shallow_feature_cam
from ichseg.context import MemoryBank, aggregate, amplify, fuse, positive_runs, vote
from ichseg.crf import DenseCRF
from ichseg.defaults import PAPER_THRESHOLD

GATE = 0.5  # probability that makes a slice positive (the paper: "predicted as hemorrhage")
LABEL_PROBABILITY = 0.7  # how sure the binary mask is taken to be before the CRF (the paper is silent)


def pseudo_masks(
    slices: Tensor,
    networks: Sequence[nn.Module],
    layers: Sequence[str] = ("layer1", "layer2"),
    threshold: float = PAPER_THRESHOLD,
) -> Tensor:
    """Pseudo-masks of one scan.

    Args:
        slices: (n, 1, H, W) in [0, 1], brain window, in scan order.
        networks: the slice classifiers (the paper: ResNet34 and ResNet50), each (B, 1, H, W) -> logits (B, 2).
        layers: module paths of layer 1 and layer 2, the same for all networks.
        threshold: TH (the paper's best: .17 on BHSD, .22 on BCIHM).

    Returns:
        (n, H, W) bool; empty where the classifiers see no hemorrhage.
    """
    bank, scores = MemoryBank(), []
    for model, network in enumerate(networks):
        with CAMExtractor(network, layers, sf_cam) as extractor:
            for index in range(len(slices)):
                logits, maps = extractor(slices[index : index + 1])
                scores.append(logits.softmax(dim=1)[0, 1])
                for layer, name in enumerate(layers):
                    one = maps[name][0]
                    # Amplification, layer 1 only: tanh(2 C / max C).
                    bank.put(index, layer, model, amplify(one) if layer == 0 else one)
    # A slice is positive if the mean softmax of the classifiers says so.
    positive = vote(torch.stack(scores).reshape(len(networks), -1)) >= GATE
    masks = torch.zeros(len(slices), *slices.shape[2:], dtype=torch.bool, device=slices.device)
    for start, stop in positive_runs(positive):
        # Bi-model ensemble, E_l = mean over the models; then spatial context fusion with c = 2 and w = 0.5,
        # S_l = (E_l + w * sum over 0 < |j-l| <= c of E_j / |j-l|) / NF_l, where NF_l is the sum of these weights.
        fused = [fuse(bank.ensembled(start, stop, layer)) for layer in range(len(layers))]
        # Bi-layer aggregation: S of layer 1 > TH or S of layer 2 > TH, both scaled up to the slice.
        masks[start:stop] = aggregate(fused, threshold, slices.shape[2:])
    return sharpened(masks, slices)


def sf_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """SF-CAM of a layer: LayerCAM, gated by the first principal component of the same features."""
    # LayerCAM: C = relu(sum over channels k of relu(g_k) * A_k), scaled to [0, 1]; the print lost the sum.
    cam = min_max(layer_cam(activations, gradients))
    # (C + P * C) / 2, P the first component of the pixels, its sign by the map; the print lost the operators.
    return shallow_feature_cam(cam, principal_component(activations))


def sharpened(masks: Tensor, slices: Tensor) -> Tensor:
    """Dense CRF of the masks (n, H, W) against the slices; an empty mask stays empty, as a CRF must invent nothing."""
    found = masks.flatten(1).any(dim=1)
    if found.any():
        blood = torch.where(masks[found, None], LABEL_PROBABILITY, 1 - LABEL_PROBABILITY)
        q = DenseCRF().refine(torch.cat([1 - blood, blood], dim=1), (slices[found] * 255).round())
        masks = masks.clone()
        masks[found] = q[:, 1] > q[:, 0]
    return masks
