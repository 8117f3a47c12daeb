"""The parts of the baselines that learn: dense networks, examples, labels, losses, memories."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from ichseg.crf import DenseCRF
from ichseg.methods.affinity import IGNORED, AffinityNetwork, seed_labels, train_affinity
from ichseg.methods.dense_resnet import LEFT_RIGHT, DenseResNet, class_maps, relative
from ichseg.methods.edam import EDAM, SlicePairs
from ichseg.methods.examples import Examples, labeled_examples
from ichseg.methods.irnet import BoundaryLoss, BoundaryNetwork, boundary_labels, train_boundaries
from ichseg.methods.rca import RCA, RCALoss
from ichseg.methods.slice_masks import SliceMasksd
from ichseg.networks import slice_classifier
from ichseg.training import FitSettings


@pytest.mark.parametrize("backbone", ["resnet34", "resnet50"])
@pytest.mark.parametrize("stride", [8, 16])
def test_a_dense_network_is_the_classifier_at_every_pixel(backbone, stride):
    classifier, x = slice_classifier(backbone).eval(), torch.rand(1, 1, 128, 128)
    seen = []
    hook = classifier.layer4.register_forward_hook(lambda m, i, o: seen.append(o))
    with torch.no_grad():
        logits = classifier(x)[0]
        hook.remove()
        dense = DenseResNet(classifier, stride).eval()
        last = dense(x)[-1]
        every = last[..., :: 32 // stride, :: 32 // stride]
        bias = classifier.fc.bias[1] - classifier.fc.bias[0]
        logit = dense.cam(every).mean() + bias
    assert last.shape[-1] == 128 // stride and last.shape[1] == dense.channels[-1]
    torch.testing.assert_close(every, seen[0], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(logit, logits[1] - logits[0], atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="stride must be"):
        DenseResNet(classifier, 4)


def test_class_maps_know_no_side():
    dense, x = DenseResNet(slice_classifier("resnet34")).eval(), torch.rand(2, 1, 64, 64)
    maps = class_maps(dense, x)
    torch.testing.assert_close(class_maps(dense, x.flip(LEFT_RIGHT)), maps.flip(LEFT_RIGHT), atol=1e-4, rtol=1e-3)
    assert maps.min() >= 0 and maps.max() <= 1
    assert not relative(-torch.rand(2, 4, 4)).any()


def test_examples_turn_together():
    images = torch.rand(5, 1, 6, 4)
    examples = Examples({"image": images, "labels": images[:, 0], "place": torch.arange(5)}, batch_size=2)
    assert len(examples) == 3
    turned = set()
    for batch in examples:
        for image, labels, place in zip(batch["image"], batch["labels"], batch["place"], strict=True):
            assert torch.equal(image[0], labels)
            turned.add(torch.equal(labels, images[place, 0]))
            assert torch.equal(labels, images[place, 0]) or torch.equal(labels.flip(0), images[place, 0])
    kept = torch.cat([batch["place"] for batch in Examples({"place": torch.arange(5)}, 2, shuffle=False)])
    assert kept.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="differ in length"):
        Examples({"a": torch.zeros(2), "b": torch.zeros(3)}, 1)


def one_lesion():
    """A bright disc, a map that is high on it, and a slice without any map."""
    y, x = np.indices((64, 64))
    disc = (y - 30) ** 2 + (x - 34) ** 2 < 64
    image = torch.from_numpy(np.where(disc, 0.8, 0.3).astype(np.float32))[None, None].repeat(2, 1, 1, 1)
    maps = torch.zeros(2, 8, 8)
    maps[0, 3:5, 3:6] = 1.0
    return image, maps, torch.from_numpy(disc)


def test_sure_pixels_are_labels_and_the_rest_is_ignored():
    image, maps, disc = one_lesion()
    seeds = seed_labels(maps, image, (8, 8), DenseCRF(3), (4, 32))
    assert seeds[0, 3, 4] == 1 and seeds[0, 0, 0] == 0 and (seeds[1] == IGNORED).all()
    labels = boundary_labels(maps, image, DenseCRF(3))
    assert labels.shape == (2, 64, 64) and labels[0][disc].float().mean() == 1 and (labels[1] == IGNORED).all()
    assert (labels[0] == 0).float().mean() > 0.5


def test_boundaries_between_labels_cost_least():
    labels = torch.zeros(1, 20, 20, dtype=torch.long)
    labels[0, :, 10:] = 1
    right, wrong = torch.zeros(1, 20, 20), torch.zeros(1, 20, 20)
    right[0, :, 9:11] = 1
    wrong[0, :, 3:5] = 1
    loss = BoundaryLoss(4)
    assert loss(right, labels) < 0.5 * loss(torch.zeros(1, 20, 20), labels)
    assert loss(right, labels) < 0.5 * loss(wrong, labels)


@pytest.mark.parametrize(("train", "network"), [(train_affinity, AffinityNetwork), (train_boundaries, BoundaryNetwork)])
def test_new_layers_learn_and_the_classifier_stays(train, network, tmp_path, monkeypatch):
    image, maps, _ = one_lesion()
    classifier = slice_classifier("resnet34").eval()
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    for module in ("affinity", "irnet"):
        monkeypatch.setattr(f"ichseg.methods.{module}.masks.class_maps", lambda dense, x: maps[:1].repeat(len(x), 1, 1))
    slices = {"train": image[:1].repeat(4, 1, 1, 1), "validate": image[:1]}
    settings, device = FitSettings("x", 64, 50, 130), torch.device("cpu")
    weights = train(classifier, slices, tmp_path, settings, 4, device, batch_size=2, learning_rate=0.05)
    losses = [float(line.split(",")[-1]) for line in (tmp_path / "history.csv").read_text().splitlines()[1:]]
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert all(torch.equal(before[key], value) for key, value in classifier.state_dict().items())
    state = torch.load(weights, weights_only=True)
    assert state and all(key.startswith(("sides", "joined")) for key in state)


def test_pairs_come_side_by_side():
    images, labels = torch.arange(6.0)[:, None, None, None], torch.tensor([1, 1, 1, 0, 0, 0])
    pairs = SlicePairs(images, labels, pairs=4, batches=2, seed=0)
    first, again = list(pairs), list(pairs)
    assert len(first) == len(pairs) == 2
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one["image"], other["image"]) and one["image"].shape == (8, 1, 1, 1)
        assert sorted(one["label"].reshape(4, 2).sum(dim=1).tolist()) == [1, 1, 2, 2]
        assert all((float(i) < 3) == bool(label) for i, label in zip(one["image"].flatten(), one["label"], strict=True))


def test_edam_gives_masks_of_slices_alone():
    network = EDAM(slice_classifier("resnet34"), 64).eval()
    x = torch.rand(4, 1, 64, 64)
    with torch.no_grad():
        logits, masks = network(x)
        alone = network.masks(x)
    assert logits.shape == (4,) and masks.shape == (4, 2, 8, 8) and alone.shape == (4, 8, 8)
    torch.testing.assert_close(network.masks(x.flip(LEFT_RIGHT)), alone.flip(LEFT_RIGHT), atol=1e-4, rtol=1e-3)


def test_only_sure_slices_enter_the_memory():
    network = RCA(slice_classifier("resnet34")).train()
    loss = RCALoss(network)
    output = network(torch.rand(3, 1, 64, 64))
    output.fine = torch.stack([torch.full((8, 8), logit) for logit in (3.0, -3.0, 0.1)])
    before = network.memory.slots.clone()
    loss(output, {"label": torch.tensor([1, 0, 1])})
    changed = (network.memory.slots != before).any(dim=2)
    assert changed.sum(dim=1).tolist() == [1, 1] and network.memory.pointer.tolist() == [1, 1]
    network.eval()
    loss(output, {"label": torch.tensor([1, 0, 1])})
    assert network.memory.pointer.tolist() == [1, 1]
    network.refresh()
    assert network.centers.abs().sum() > 0 and network.centers.norm(dim=1).max() <= 1 + 1e-5
    network.refresh()  # from the second pass on, regions are contrasted
    network.train()
    value = loss(network(torch.rand(2, 1, 64, 64)), {"label": torch.tensor([1, 0])})
    value.backward()
    assert value.isfinite() and network.project[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("bleeding", [[], [1], [0, 2, 3]])
def test_only_slices_that_may_bleed_are_masked(bleeding):
    affine = torch.diag(torch.tensor([0.5, 0.5, 5.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, 8, 6, 4), affine=affine)
    asked = []

    def maker(slices):
        asked.append(len(slices))
        return slices[:, 0] > 0.5

    probability = torch.tensor([1.0 if z in bleeding else 0.0 for z in range(4)])
    item = SliceMasksd("image", maker, batch_size=2)({"image": image, "pred": probability})
    expected = torch.zeros(1, 8, 6, 4, dtype=torch.uint8)
    for z in bleeding:
        expected[..., z] = (image.as_tensor()[..., z] > 0.5).to(torch.uint8)
    assert torch.equal(item["pred"].as_tensor(), expected) and torch.equal(item["pred"].affine, affine)
    assert sum(asked) == len(bleeding) and max(asked, default=0) <= 2


def test_maps_that_teach_nothing_are_told(caplog):
    slices = {"train": torch.rand(3, 1, 8, 8), "validate": torch.rand(1, 1, 8, 8)}

    def labels_of(some):
        return torch.full((len(some), 8, 8), IGNORED if len(some) == 3 else 0)

    with caplog.at_level("WARNING"):
        found = labeled_examples(slices, labels_of, 2, torch.device("cpu"), IGNORED)
    assert [(part.count, part.shuffle) for part in found.values()] == [(3, True), (1, False)]
    assert "in the slices to train" in caplog.text and "to validate" not in caplog.text
