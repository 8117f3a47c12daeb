"""The method on one page and the bundle that runs it give the same masks."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import classifier_file

from ichseg.bundle import BundleParts
from ichseg.data import load_datalist
from ichseg.method import pseudo_masks
from ichseg.networks import load_ensemble


@pytest.mark.slow
def test_one_page_and_the_bundle_give_the_same_masks(phantoms, tmp_path, monkeypatch):
    from ichseg import method

    classifiers = {b: str(classifier_file(tmp_path / f"{b}.pt", b)) for b in ("resnet34", "resnet50")}
    ensemble = load_ensemble(classifiers)
    values = {
        "classifiers": classifiers,
        "folds": [1, 2],
        "dataset_dir": str(phantoms),
        "output_dir": str(tmp_path / "out"),
    }
    parts = BundleParts("ich_pseudo_segmentation", "inference.yaml", {**values, "device_name": "cpu"})
    scans = [parts["preprocessing"](dict(scan)) for scan in load_datalist(phantoms / "datalist.json", [1, 2])]
    scores = [ensemble(scan["image"].as_tensor()[0].movedim(-1, 0)[:, None])[:, 1] for scan in scans]
    # Random classifiers are sure of nothing: a gate in the middle of their scores lets some slices through and not all.
    # Between two scores: one at a score would hang on how it was rounded.
    ranked = torch.cat(scores).sort().values[2:-2]
    widest = int(ranked.diff().argmax())
    gate = float(ranked[widest : widest + 2].detach().mean())
    monkeypatch.setattr(method, "GATE", gate)
    values |= {"gate": gate, "device_name": "cpu", "batch_size": 1}
    rows = BundleParts("ich_pseudo_segmentation", "inference.yaml", values)["evaluator"].run()
    assert [row["status"] for row in rows] == ["ok"] * len(scans)
    marked = gated = 0
    for scan in scans:
        slices = scan["image"].as_tensor()[0].movedim(-1, 0)[:, None]
        mine = pseudo_masks(slices, list(ensemble.networks)).movedim(0, -1).numpy()
        theirs = nib.load(tmp_path / "out" / f"{scan['case']}_pseudo.nii.gz")
        turned = nib.as_closest_canonical(theirs).get_fdata()[::-1, ::-1] > 0  # the slices are in LPS
        assert np.array_equal(mine, turned), scan["case"]
        marked, gated = marked + int(mine.sum()), gated + int(mine.any(axis=(0, 1)).sum())
    assert marked and gated < 8 * len(scans)


def test_a_scan_without_positive_slices_has_empty_masks():
    network = torch.nn.Sequential()
    network.layer1 = torch.nn.Conv2d(1, 2, 3, padding=1)
    network.layer2 = torch.nn.Sequential(torch.nn.MaxPool2d(2), torch.nn.Conv2d(2, 3, 3, padding=1))
    network.head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    with torch.no_grad():
        network.head[2].bias.copy_(torch.tensor([9.0, -9.0]))
    assert not pseudo_masks(torch.rand(4, 1, 16, 16), [network]).any()
