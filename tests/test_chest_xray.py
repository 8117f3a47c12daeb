"""The chest X-ray pipeline: DropBlock in the classifier, GrabCut, and all three steps on pictures and on head CT."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from conftest import classifier_file

from ichseg.bundle import run_bundle
from ichseg.errors import IchsegError
from ichseg.methods.chest_xray import ChestMasks, grab_cut, load_resnet, seed_maps
from ichseg.methods.dense_resnet import LEFT_RIGHT
from ichseg.methods.dropblock import DropBlock, with_dropblock
from ichseg.networks import slice_classifier

SMALL = {"size": 64, "epochs": 1, "batch_size": 8, "device_name": "cpu"}


def test_dropped_squares_have_no_weights():
    plain = slice_classifier("resnet34").eval()
    regularized = with_dropblock(slice_classifier("resnet34"), 0.3)
    regularized.load_state_dict(plain.state_dict())
    assert sum(isinstance(module, DropBlock) for module in regularized.modules()) == 2
    x = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(regularized.eval()(x), plain(x))
    assert not any(
        isinstance(module, DropBlock) for module in with_dropblock(slice_classifier("resnet34"), 0).modules()
    )


def test_a_cut_follows_the_edge_and_not_the_map():
    rng = np.random.default_rng(0)
    y, x = np.indices((64, 64))
    disc = (y - 30) ** 2 + (x - 36) ** 2 < 12**2
    image = np.clip(np.where(disc, 0.7, 0.3) + rng.normal(0, 0.05, disc.shape), 0, 1)
    score = np.exp(-((y - 32) ** 2 + (x - 34) ** 2) / (2 * 9**2))
    cut = grab_cut(image, score)
    assert 2 * (cut & disc).sum() / (cut.sum() + disc.sum()) > 0.95
    assert cut[30, 36] and not cut[0, 0]
    assert not grab_cut(image, np.ones_like(score)).any()


@pytest.mark.parametrize("kind", ["grad_cam++", "cam"])
def test_maps_know_no_side(kind):
    maps, x = seed_maps(slice_classifier("resnet34").eval(), "resnet34", kind), torch.rand(2, 1, 64, 64)
    found = maps(x)
    assert found.min() >= 0 and found.max() <= 1 and not found.requires_grad
    torch.testing.assert_close(maps(x.flip(LEFT_RIGHT)), found.flip(LEFT_RIGHT), atol=1e-4, rtol=1e-3)
    with pytest.raises(IchsegError, match="maps must be"):
        seed_maps(slice_classifier("resnet34"), "resnet34", "layer_cam")


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(IchsegError, match="boundaries need a ResNet"):
        load_resnet(classifier_file(tmp_path / "vgg.pt", "vgg16"))
    loaded = load_resnet(classifier_file(tmp_path / "resnet.pt"))
    with pytest.raises(IchsegError, match="'walk' needs boundaries"):
        ChestMasks(loaded)
    with pytest.raises(IchsegError, match="seeds must be one of"):
        ChestMasks(loaded, seeds="grow")
    x = torch.rand(2, 1, 64, 64)
    for seeds in ("map", "grab_cut"):
        masks = ChestMasks(loaded, seeds=seeds)(x)
        assert masks.shape == (2, 64, 64) and masks.dtype == torch.bool


def test_three_steps_from_labels_to_masks(phantoms, tmp_path):
    given = {"dataset_dir": str(phantoms), "window_level": 50, "window_width": 130}
    run_bundle("chest_xray", "train.yaml", {**given, **SMALL, "backbone": "resnet34",
                                            "output_dir": str(tmp_path / "classifier")})  # fmt: skip
    weights = str(tmp_path / "classifier" / "model.pt")
    shared = {"dataset_dir": str(phantoms), "weights": weights, "device_name": "cpu"}
    run_bundle("chest_xray", "boundaries.yaml", {**shared, "epochs": 2, "batch_size": 8, "val_folds": [4],
                                                 "output_dir": str(tmp_path / "boundaries")})  # fmt: skip
    boundaries = str(tmp_path / "boundaries" / "model.pt")
    assert len((tmp_path / "boundaries" / "history.csv").read_text().splitlines()) == 3
    run_bundle("chest_xray", "generate.yaml", {**shared, "boundaries": boundaries, "gate_by": "label",
                                               "output_dir": str(tmp_path / "masks")})  # fmt: skip
    files = sorted((tmp_path / "masks").glob("*_pseudo.nii.gz"))
    assert len(files) == len(list((phantoms / "images").iterdir()))
    marked = 0
    for file in files:
        mask = np.asarray(nibabel.load(file).dataobj) > 0
        truth = np.asarray(nibabel.load(phantoms / "labels" / file.name.replace("_pseudo", "")).dataobj) > 0
        assert not mask[..., ~truth.any(axis=(0, 1))].any()  # slices labeled negative stay empty
        marked += mask.any()
    assert marked
