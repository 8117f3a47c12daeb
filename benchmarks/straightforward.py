"""Pseudo-labels the way one writes them down first: libraries as they come, slice after slice.

torchcam's LayerCAM, scikit-learn's PCA, NumPy for the fusion, pydensecrf. The same steps and constants as the bundle
``ich_pseudo_segmentation``, so that the masks should agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from lattice_pool import mean_field
from sklearn.decomposition import PCA
from torchcam.methods import LayerCAM

LAYERS = ["layer1", "layer2"]


def pseudo_label(
    image: Path,
    output: Path,
    networks: Sequence[torch.nn.Module],
    size: int,
    device: torch.device,
    gate: float,
    threshold: float = 0.22,
) -> np.ndarray:
    """One NIfTI in, one NIfTI out; returns the mask (slices, size, size) before it goes back to the scan's grid."""
    file = nib.load(image)
    slices = np.moveaxis(file.get_fdata(dtype=np.float32), 2, 0)
    slices = np.clip((slices - (50 - 65)) / 130, 0, 1)
    stack = torch.from_numpy(np.ascontiguousarray(slices))[:, None]
    stack = torch.nn.functional.interpolate(stack, (size, size), mode="bilinear", antialias=True)
    maps: dict[int, list[np.ndarray]] = {}
    for number in range(len(stack)):
        found = slice_maps(stack[number : number + 1].to(device), networks, gate)
        if found is not None:
            maps[number] = found
    masks = np.zeros((len(stack), size, size), np.uint8)
    for number in maps:
        fused = [fuse(maps, number, layer) for layer in range(len(LAYERS))]
        mask = either(fused, size, threshold)
        if mask.any():
            p = np.where(mask, 0.7, 0.3)
            gray = np.round(stack[number, 0].numpy() * 255)
            masks[number] = mean_field(np.stack([1 - p, p]), gray).argmax(axis=0)
    own = torch.nn.functional.interpolate(torch.from_numpy(masks)[:, None].float(), slices.shape[1:], mode="nearest")
    nib.save(nib.Nifti1Image(np.moveaxis(own[:, 0].numpy().astype(np.uint8), 0, 2), file.affine), output)
    return masks


def slice_maps(image: torch.Tensor, networks: Sequence[torch.nn.Module], gate: float) -> list[np.ndarray] | None:
    """One map per layer, the mean over the networks; None for a slice that does not pass the gate."""
    per_layer: list[list[np.ndarray]] = [[] for _ in LAYERS]
    probabilities = []
    for network in networks:
        with LayerCAM(network, LAYERS) as extractor:
            logits = network(image)
            probabilities.append(float(logits.softmax(1)[0, 1]))
            cams = extractor(1, logits, normalized=True)
            features = list(extractor.hook_a)
        for layer, (cam, feature) in enumerate(zip(cams, features, strict=True)):
            c = cam[0].detach().cpu().numpy()
            x = feature[0].detach().cpu().numpy()
            component = PCA(1).fit_transform(x.reshape(len(x), -1).T)[:, 0].reshape(c.shape)
            if np.corrcoef(component.ravel(), c.ravel())[0, 1] < 0:
                component = -component
            component = (component - component.min()) / (component.max() - component.min())
            gated = (c + component * c) / 2
            if layer == 0:
                gated = np.tanh(2 * gated / gated.max())
            per_layer[layer].append(gated)
    if np.mean(probabilities) < gate:
        return None
    return [np.mean(each, axis=0) for each in per_layer]


def fuse(maps: dict[int, list[np.ndarray]], number: int, layer: int) -> np.ndarray:
    """Weighted mean with up to two neighbors on either side, as far as the run of positive slices goes."""
    total, weights = maps[number][layer].copy(), 1.0
    for side in (-1, 1):
        for distance in (1, 2):
            neighbor = number + side * distance
            if neighbor not in maps:
                break
            total += 0.5 / distance * maps[neighbor][layer]
            weights += 0.5 / distance
    return total / weights


def either(maps: Sequence[np.ndarray], size: int, threshold: float) -> np.ndarray:
    """True where one of the upsampled maps is above the threshold."""
    return np.logical_or.reduce([upscaled(m, size) > threshold for m in maps])


def upscaled(values: np.ndarray, size: int) -> np.ndarray:
    """Bilinear."""
    tensor = torch.from_numpy(values.astype(np.float32))[None, None]
    return torch.nn.functional.interpolate(tensor, (size, size), mode="bilinear")[0, 0].numpy()
