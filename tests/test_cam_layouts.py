"""CAM on what is no plain feature map: tokens, channels last, compiled networks, threads that share one network."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose
from torch import nn

from ichseg.cam import CAMExtractor
from ichseg.networks import slice_classifier
from ichseg.transforms import ClassActivationMapd, ShallowFeatureCAM, ShallowFeatureCAMd


class Tokens(nn.Module):
    """A small transformer; ``first`` tokens stand before those of the patches."""

    def __init__(self, first=0):
        super().__init__()
        self.patch = nn.Conv2d(1, 48, 16, 16)
        self.first = nn.Parameter(torch.randn(1, first, 48))
        self.block = nn.TransformerEncoderLayer(48, 4, 96, batch_first=True, dropout=0.0)
        self.head = nn.Linear(48, 2)

    def forward(self, x):
        patches = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.block(torch.cat([self.first.expand(len(x), -1, -1), patches], 1)).mean(1))


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(1, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 2)
        self.same = nn.Identity()

    def forward(self, x):
        return self.head(self.same(self.norm(self.patch(x).permute(0, 2, 3, 1))).mean((1, 2)))


@pytest.mark.parametrize(("network", "layer"), [(Tokens(), "block"), (Last(), "norm"), (Last(), "same")])
def test_other_layouts_are_refused(network, layer):
    with CAMExtractor(network, [layer], "grad_cam") as extractor, pytest.raises(ValueError, match="give reshape"):
        extractor(torch.rand(2, 1, 96, 96))


@pytest.mark.parametrize("first", [0, 1, 5])
def test_tokens_are_laid_out_in_the_image(first):
    torch.manual_seed(0)
    network, image = Tokens(first).eval(), torch.rand(2, 1, 96, 64)
    with CAMExtractor(network, ["block"], "layer_cam", reshape="tokens") as extractor:
        mine = extractor(image)[1]["block"]
    kept = {}
    network.block.register_forward_hook(lambda m, i, o: kept.update(a=o) or o.retain_grad())
    network(image)[:, 1].sum().backward()
    a, g = (t[:, first:].transpose(1, 2).reshape(2, 48, 6, 4) for t in (kept["a"], kept["a"].grad))
    torch.testing.assert_close(mine, (g.relu() * a).sum(1).relu())


def test_channels_last_and_functions():
    torch.manual_seed(0)
    network, image = Last().eval(), torch.rand(2, 1, 96, 96)
    maps = []
    for reshape in ("channels_last", lambda values: values.permute(0, 3, 1, 2), {"norm": "channels_last"}):
        with CAMExtractor(network, ["norm"], "grad_cam", reshape=reshape) as extractor:
            maps.append(extractor(image)[1]["norm"])
    assert maps[0].shape == (2, 24, 24) and torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])
    wrong = CAMExtractor(network, ["norm"], reshape=lambda v: v[..., 0])
    with wrong as extractor, pytest.raises(ValueError, match=r"reshape gives layer 'norm' shape \(2, 24, 24\)"):
        extractor(image)
    with pytest.raises(ValueError, match="reshape must be"):
        CAMExtractor(network, ["norm"], reshape="first")
    with pytest.raises(ValueError, match="reshape names 'head'"):
        CAMExtractor(network, ["norm"], reshape={"head": "tokens"})
    tokens = Tokens()
    with CAMExtractor(tokens, ["block"], reshape="tokens") as extractor, pytest.raises(ValueError, match="do not fit"):
        extractor(torch.rand(1, 1, 96, 112))  # 42 tokens of 6 x 7: fits; the next does not
        extractor(torch.rand(1, 1, 100, 112))


def test_convolutions_of_any_stride_are_feature_maps():
    network = nn.Sequential(nn.Conv2d(1, 4, 3, (2, 1), 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with CAMExtractor(network, ["0"]) as extractor:
        assert extractor(torch.rand(1, 1, 33, 20))[1]["0"].shape == (1, 17, 20)


def test_one_logit_is_named():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    with (
        CAMExtractor(network, ["0"]) as extractor,
        pytest.raises(ValueError, match=r"logits \(1, 1\), and \(B, classes\)"),
    ):
        extractor(torch.rand(1, 1, 32, 32))


def test_compiled_networks_give_the_same_maps():
    network, image = slice_classifier("resnet34"), torch.rand(1, 1, 64, 64)
    maps = []
    for given, layer in (
        (network, "layer2"),
        (torch.compile(network), "layer2"),
        (torch.compile(network), "_orig_mod.layer2"),
    ):
        with CAMExtractor(given, [layer]) as extractor:
            maps.append(extractor(image)[1]["layer2"])
    assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])
    network.compile()
    compiled = network._compiled_call_impl
    with CAMExtractor(network, ["layer2"]) as extractor:
        assert torch.equal(extractor(image)[1]["layer2"], maps[0])
    assert network._compiled_call_impl is compiled


# --- threads ----------------------------------------------------------------------------------------------------------
AFFINE = torch.diag(torch.tensor([-0.8, -0.8, 5.0, 1.0]))


def state(network):
    hooks = sum(len(m._forward_hooks) for m in network.modules())
    inplace = [getattr(m, "inplace", None) for m in network.modules()]
    return hooks, sum(p.requires_grad for p in network.parameters()), [m.training for m in network.modules()], inplace


@pytest.mark.parametrize("kind", [ShallowFeatureCAMd, ClassActivationMapd])
def test_worker_threads_share_a_network(kind):
    torch.manual_seed(0)
    network = slice_classifier("resnet34")
    items = [{"image": MetaTensor(torch.rand(1, 64, 64, 2), affine=AFFINE)} for _ in range(4)]
    options = {"gate": 0.0} if kind is ShallowFeatureCAMd else {"layers": ["layer1"]}
    step = kind("image", network, **options)
    expected, before = [step(dict(item)) for item in items], state(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = CacheDataset(items, Compose([step]), num_workers=2, progress=False)
    for number in range(4):
        torch.testing.assert_close(data[number]["image_cam_1"], expected[number]["image_cam_1"])
    assert state(network) == before


def test_extractors_of_one_network_take_turns():
    network = slice_classifier("resnet34").train()
    image, before = torch.rand(1, 1, 64, 64), state(network)
    with CAMExtractor(network, ["layer1"]) as extractor:
        expected = extractor(image)[1]["layer1"]
    found, errors = [], []

    def look():
        try:
            with CAMExtractor(network, ["layer1"]) as extractor:
                found.append(extractor(image)[1]["layer1"])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and all(torch.equal(one, expected) for one in found) and state(network) == before


class Both(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.networks = nn.ModuleList([network])

    def forward(self, x):
        return self.networks[0](x)


def test_a_network_and_the_ensemble_it_is_in_take_turns():
    network = slice_classifier("resnet34").train()
    ensemble, image, before = Both(network), torch.rand(1, 1, 64, 64), state(network)
    with CAMExtractor(network, ["layer1"]) as extractor:
        expected = extractor(image)[1]["layer1"]
    found = in_threads(
        *[lambda m=m, n=n: map_of(m, n, image) for m, n in ((network, "layer1"), (ensemble, "networks.0.layer1"))] * 4
    )
    assert all(torch.equal(one, expected) for one in found) and state(network) == before


def map_of(network, layer, image):
    with CAMExtractor(network, [layer]) as extractor:
        return extractor(image)[1][layer]


def in_threads(*functions):
    found, errors = [], []

    def run(function):
        try:
            found.append(function())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors and not any(thread.is_alive() for thread in threads), errors
    return found


def test_the_order_of_the_networks_does_not_matter():
    a, b = slice_classifier("resnet34"), slice_classifier("resnet34")
    scan = MetaTensor(torch.rand(1, 64, 64, 2), affine=AFFINE)
    steps = [ShallowFeatureCAM(pair, gate=0.0) for pair in ((a, b), (b, a))]
    assert len(in_threads(*[lambda s=s: s(scan) for s in steps * 4])) == 8


def test_a_thread_that_waits_for_another_is_told():
    from ichseg.cam import sole_use

    network, told = slice_classifier("resnet34"), []

    def other():
        try:
            with sole_use(network, wait=0.2):
                told.append("in")
        except RuntimeError as error:
            told.append(str(error))

    with CAMExtractor(network, ["layer1"]):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another thread has used this network" in told[0]
    other()
    assert told[1] == "in"


@pytest.mark.parametrize("channels", [15, 16, 17, 31, 32, 33])
def test_layers_are_told_by_what_they_are_made_of(channels):
    last = nn.Sequential(
        nn.Conv2d(1, channels, 4, 4), Permute(), nn.LayerNorm(channels), Mean(), nn.Linear(channels, 2)
    )
    with CAMExtractor(last, ["2"]) as extractor, pytest.raises(ValueError, match="give reshape"):
        extractor(torch.rand(1, 1, 64, 64))
    body = nn.Sequential(nn.Conv2d(1, channels, 3, (2, 1), 1), nn.ReLU())
    flat = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))
    with CAMExtractor(flat, ["0"]) as extractor:
        assert extractor(torch.rand(1, 1, 64, 64))[1]["0"].shape == (1, 32, 64)


class Permute(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((1, 2))


def test_a_failure_on_the_way_in_leaves_nothing(monkeypatch):
    network = slice_classifier("resnet34").train()
    before = state(network)

    def fails(self, hook):
        raise RuntimeError("no hooks today")

    extractor = CAMExtractor(network, ["layer1", "layer2"])
    monkeypatch.setattr(type(network.layer2), "register_forward_hook", fails)
    with pytest.raises(RuntimeError, match="no hooks today"):
        extractor.__enter__()
    monkeypatch.undo()
    assert state(network) == before


# --- maps of scans without hemorrhage ---------------------------------------------------------------------------------
@pytest.mark.parametrize("upsample", ["last", "first"])
def test_maps_of_negative_scans_can_be_batched(upsample):
    network = slice_classifier("resnet34")
    scan = MetaTensor(torch.rand(1, 64, 64, 3), affine=AFFINE)
    some, _ = ShallowFeatureCAM(network, gate=0.0, upsample=upsample)(scan)
    none, _ = ShallowFeatureCAM(network, gate=1.1, upsample=upsample)(scan)
    known, _ = ShallowFeatureCAM(network, gate=0.5, upsample=upsample)(scan, torch.zeros(3))
    for number, one in enumerate(some):
        assert none[number].shape == known[number].shape == one.shape
        assert not none[number].any() and not known[number].any()


def test_stacks_without_a_channel_are_refused():
    with pytest.raises(ValueError, match=r"expected a scan of shape \(1, X, Y, Z\), not \(64, 64, 3\)"):
        ShallowFeatureCAM(slice_classifier("resnet34"))(torch.rand(64, 64, 3))


def test_slices_are_shared_out_over_the_cores():
    """Maps are the same however many batches there are, and whoever makes them."""
    network = slice_classifier("resnet34")
    scan = MetaTensor(torch.rand(1, 64, 64, 5), affine=AFFINE)
    before = torch.get_num_threads()
    maps = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            maps.append(ShallowFeatureCAM(network, gate=0.0, batch_size=2)(scan)[0])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*maps, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
