"""HGI-SAM: the worked numbers, what must not change the maps, and windows that find their places again."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import torch
from conftest import swin_file
from monai.data import MetaTensor
from torch.nn import functional

from ichseg.bundle import run_bundle
from ichseg.data import load_datalist
from ichseg.errors import IchsegError
from ichseg.evaluation.threshold_search import best_threshold
from ichseg.io import read_mask
from ichseg.methods.hgi_sam import (
    AttentionMapsd,
    AttentionRecorder,
    BlockAttention,
    SwinSettings,
    SwinSliceClassifier,
    hgi_sam,
    hgi_sam_maps,
    key_weights,
    load_swin,
    paired,
    rolled_back,
    stitched,
    swin_grad_cam_maps,
    swin_sam,
    swin_sam_maps,
)
from ichseg.methods.hgi_sam.network import attention_bytes
from ichseg.synthetic.phantom import prepare_phantom
from ichseg.training import HeadFirst
from ichseg.transforms import CTWindows

PIXELS, WINDOW = 96, 6  # grids of 24, 12, 6 and 3 tokens: shifted, and as large as a window


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SwinSliceClassifier("swin_nano", window=WINDOW)


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(1))


def test_heads_are_weighted_by_the_norm_of_their_gradients():
    attention = torch.tensor([[[[0.7, 0.3], [0.4, 0.6]], [[0.5, 0.5], [0.1, 0.9]]]])
    gradients = torch.tensor([[[[3.0, 0], [0, 4]], [[0, 1], [0, 0]]]])
    torch.testing.assert_close(key_weights(attention, gradients), torch.tensor([[1.525, 1.475]]))
    torch.testing.assert_close(key_weights(attention), torch.tensor([[(0.55 + 0.3) / 2, (0.45 + 0.7) / 2]]))
    with pytest.raises(ValueError, match="do not fit"):
        key_weights(attention, gradients[:, :1])
    with pytest.raises(ValueError, match="must have shape"):
        key_weights(attention[0])


@pytest.mark.parametrize(("grid", "shift"), [((12, 12), (3, 3)), ((12, 18), (0, 0)), ((10, 11), (3, 2))])
def test_windows_are_stitched_as_they_were_cut(grid, shift):
    from monai.networks.nets.swin_unetr import window_partition

    tokens = torch.arange(2 * grid[0] * grid[1], dtype=torch.float32).reshape(2, *grid)
    rest = [-side % 6 for side in grid]
    padded = functional.pad(tokens, (0, rest[1], 0, rest[0]))
    cut = window_partition(torch.roll(padded, [-s for s in shift], (1, 2))[..., None], (6, 6))[..., 0]
    assert torch.equal(rolled_back(stitched(cut, grid, (6, 6)), shift), padded)
    assert torch.equal(BlockAttention(cut, grid, (6, 6), shift).map, tokens)


def test_pairs_are_multiplied_and_averaged():
    maps = [torch.full((1, 2, 2), value) for value in (2.0, 3.0, 1.0, 4.0)]
    assert torch.equal(paired(maps), torch.full((1, 2, 2), 5.0))
    with pytest.raises(ValueError, match="even number"):
        paired(maps[:3])


def test_scores_and_probabilities_give_other_gradients_and_the_same_logits(model, images):
    with torch.no_grad():
        expected = model.eval()(images)
    with AttentionRecorder(model) as recorder:
        logits, stages = recorder(images)
    torch.testing.assert_close(logits, expected)
    assert [len(stage) for stage in stages] == [2, 2, 2, 2]
    assert [stage[0].grid for stage in stages] == [(24, 24), (12, 12), (6, 6), (3, 3)]
    assert [stage[1].shift for stage in stages] == [(3, 3), (3, 3), (0, 0), (0, 0)]
    with AttentionRecorder(model, "probabilities") as recorder:
        other = recorder(images)[1]
    assert not torch.allclose(stages[0][0].keys, other[0][0].keys)


def test_gradients_are_those_of_the_scores_whose_rows_add_up_to_nothing(model, images):
    seen = {}
    softmax = model.swin.layers1[0].blocks[0].attn.softmax

    def listen(module, inputs, output):
        inputs[0].register_hook(lambda grad: seen.update(scores=grad))

    hook = softmax.register_forward_hook(listen)
    with AttentionRecorder(model) as recorder:
        _, stages = recorder(images)
    hook.remove()
    assert seen["scores"].abs().max() > 0
    torch.testing.assert_close(seen["scores"].sum(-1), torch.zeros_like(seen["scores"][..., 0]), atol=1e-7, rtol=0)
    assert stages[0][0].keys.shape == (2 * 16, 36)


def test_the_scale_of_gradients_does_not_matter_and_equal_ones_are_swin_sam(model, images):
    with AttentionRecorder(model) as recorder:
        _, infused = recorder(images)
        _, plain = recorder(images, infused=False)
    scaled = [[BlockAttention(7 * b.keys, b.grid, b.window, b.shift) for b in stage] for stage in infused]
    size = (PIXELS, PIXELS)
    torch.testing.assert_close(hgi_sam(scaled, size), hgi_sam(infused, size))
    attention = torch.rand(8, 4, 9, 9).softmax(-1)
    constant = torch.full_like(attention, 0.5)
    weighted = key_weights(attention, constant)
    torch.testing.assert_close(weighted / weighted.max(), key_weights(attention) / key_weights(attention).max())
    assert not torch.allclose(hgi_sam(infused, size), hgi_sam(plain, size))
    assert not torch.allclose(swin_sam(plain, size), hgi_sam(plain, size))  # the fourth stage counts there


def test_every_image_has_its_own_map(model, images):
    brain = torch.zeros(2, PIXELS, PIXELS, dtype=torch.bool)
    brain[:, 20:70, 20:70] = True
    logits, maps = hgi_sam_maps(images, model, brain)
    assert maps.shape == (2, PIXELS, PIXELS) and maps.amin() == 0 and maps.amax(dim=(1, 2)).tolist() == [1, 1]
    assert not maps[~brain].any()
    for index in (0, 1):
        one, alone = hgi_sam_maps(images[index : index + 1], model, brain[index : index + 1])
        torch.testing.assert_close(one, logits[index : index + 1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone, maps[index : index + 1], atol=2e-3, rtol=0)
    for other in (swin_sam_maps(images, model, brain)[1], swin_grad_cam_maps(images, model, model.last_norm, brain)[1]):
        assert other.shape == maps.shape and other.min() >= 0 and other.max() <= 1 and not other[~brain].any()


def test_the_network_is_as_it_was_afterwards(model, images):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hgi_sam_maps(images[:1], model)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ValueError, match="in a 'with' block"):
        AttentionRecorder(model)(images)
    with pytest.raises(ValueError, match="one SwinTransformer, not 0"):
        AttentionRecorder(torch.nn.Linear(2, 2))
    with AttentionRecorder(model) as recorder, pytest.raises(ValueError, match="target 2 is none of the 2"):
        recorder(images[:1], target=2)


def test_a_blank_slice_gives_zeros_and_no_nan(model):
    maps = hgi_sam_maps(torch.zeros(1, 3, PIXELS, PIXELS), model, torch.zeros(1, PIXELS, PIXELS, dtype=torch.bool))[1]
    assert not maps.any()


def test_attention_has_a_stated_size(model, images):
    seen = []
    hooks = [
        block.attn.softmax.register_forward_hook(lambda module, inputs, output: seen.append(output.numel()))
        for stage in (model.swin.layers1, model.swin.layers2, model.swin.layers3, model.swin.layers4)
        for block in stage[0].blocks
    ]
    with torch.no_grad():
        model(images[:1])
    for hook in hooks:
        hook.remove()
    assert 4 * sum(seen) == attention_bytes("swin_nano", (PIXELS, PIXELS), WINDOW)
    # Stages of 64, 16, 4 and 1 windows of 144 tokens.
    assert attention_bytes("swin_base", (384, 384)) == 4 * 144**2 * (2 * 64 * 4 + 2 * 16 * 8 + 18 * 4 * 16 + 2 * 1 * 32)


# --- on volumes -------------------------------------------------------------------------------------------------------
def test_windows_become_channels_by_their_own_range():
    image = MetaTensor(torch.tensor([[[[-20.0, 40, 100, 2300]]]]), affine=torch.eye(4))
    made = CTWindows([(40, 120), (700, 3200)])(image)
    assert made.shape == (2, 1, 1, 4) and made[0].flatten().tolist() == [0, 0.5, 1, 1]
    torch.testing.assert_close(made[1].as_tensor().flatten()[[1, 3]], torch.tensor([940 / 3200, 1.0]))
    with pytest.raises(ValueError, match="one channel"):
        CTWindows([(40, 120)])(made)


@pytest.mark.parametrize("kind", ["hgi_sam", "swin_sam", "swin_grad_cam"])
def test_slices_below_the_gate_have_no_map(model, kind):
    volume = MetaTensor(torch.rand(3, PIXELS, PIXELS, 3), affine=torch.eye(4))
    rows = torch.arange(PIXELS) - PIXELS / 2
    radius = torch.hypot(rows[:, None], rows)[..., None]
    volume[0] = torch.where(radius < 30, volume[0] * 0.2 + 0.3, (radius < 36).float().expand_as(volume[0]))
    item = {"image": volume, "pred": torch.tensor([[0.9, 0.2, 0.7]])}
    maps = AttentionMapsd("image", model, kind=kind, batch_size=1)(item)["score"]
    assert maps.shape == (1, PIXELS, PIXELS, 3) and not maps[..., 1].any()
    assert not maps[0][(radius > 31).expand(-1, -1, 3)].any()
    if kind != "swin_grad_cam":  # which may see nothing but evidence against
        assert maps[..., 0].max() == 1 == maps[..., 2].max()
    with pytest.raises(ValueError, match="kind must be one of"):
        AttentionMapsd("image", model, kind="cam")


def test_the_head_trains_first(model):
    handler = HeadFirst(model, epochs=2)

    class State:
        epoch = 1

    class Engine:
        state = State()

    for State.epoch, body in ((1, False), (2, False), (3, True)):
        handler._switch(Engine())
        assert all(parameter.requires_grad for parameter in model.head.parameters())
        assert all(parameter.requires_grad is body for parameter in model.swin.parameters())


def test_weights_carry_what_they_were_made_for(tmp_path):
    network, made = load_swin(swin_file(tmp_path / "model.pt"))
    assert made.variant == "swin_nano" and made.windows[0] == [40, 120] and len(network.networks) == 1
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(IchsegError):
        load_swin(tmp_path / "other.pt")


@pytest.mark.slow
def test_from_labels_to_masks(tmp_path):
    """Trained for two epochs on phantoms; masks of all three kinds lie on the scans' grids."""
    prepare_phantom(tmp_path / "data", scans=10, seed=2, size=96, slices=6)
    values = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "run"), "size": PIXELS, "epochs": 2,
              "tokens": WINDOW, "variant": "swin_nano", "device_name": "cpu", "batch_size": 8}  # fmt: skip
    run_bundle("hgi_sam", "train.yaml", values)
    history = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert len(history) == 3
    scans = load_datalist(tmp_path / "data" / "datalist.json", "3,4")
    for kind in ("hgi_sam", "swin_sam", "swin_grad_cam"):
        out = tmp_path / kind
        values = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(out), "kind": kind, "gate": 0.0,
                  "weights": str(tmp_path / "run" / "model.pt"), "folds": [3, 4], "save_scores": True,
                  "device_name": "cpu"}  # fmt: skip
        run_bundle("hgi_sam", "generate.yaml", values)
        rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
        assert len(rows) == len(scans) and all(row["status"] != "failed" for row in rows)
        case = scans[0]["case"]
        mask, affine = read_mask(out / f"{case}_pseudo.nii.gz")
        scan, score = nibabel.load(scans[0]["image"]), nibabel.load(out / f"{case}_score.nii.gz")
        assert mask.shape == scan.shape and np.allclose(affine, scan.affine, atol=1e-4)
        assert np.array_equal(mask > 0, score.get_fdata(dtype=np.float32) > 0.05) and mask.any()


def test_subtypes_are_told_apart_and_maps_explain_any(tmp_path):
    """A head of six classes trains from the table, and gives probabilities of hemorrhage and maps like the other."""
    prepare_phantom(tmp_path / "data", scans=6, seed=1, size=96, slices=6)
    values = {"dataset_dir": str(tmp_path / "data"), "device_name": "cpu"}
    training = {"variant": "swin_nano", "size": 96, "tokens": 6, "epochs": 1, "head": "subtypes"}
    run_bundle("hgi_sam", "train.yaml", {**values, **training, "output_dir": str(tmp_path / "run")})
    network, made = load_swin(tmp_path / "run" / "model.pt")
    assert made.head == "subtypes" and network.networks[0].head.out_features == 6
    x = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        probability = network(x)
        network.networks[0].explains_any = False
        torch.testing.assert_close(probability[:, 1], network.networks[0](x)[:, 0].sigmoid())
    network.networks[0].explains_any = True
    assert hgi_sam_maps(x, network.networks[0])[1].shape == (2, 96, 96)
    with pytest.raises(IchsegError, match="head must be binary or subtypes"):
        SwinSettings("swin_nano", 96, [[40, 80]], head="five")


def _turned_upside_down(folder, scans):
    """Store the true masks with their slices in the other order; only the slices with hemorrhage are annotated."""
    told = json.loads((folder / "datalist.json").read_text())
    by_name = {
        entry["label"]: entry for part in told.values() if isinstance(part, list) for entry in part if "label" in entry
    }
    for scan in scans:
        truth, affine = read_mask(scan["label"])
        entry = next(value for name, value in by_name.items() if scan["label"].endswith(name))
        entry["label_slices"] = np.flatnonzero((truth > 0).any(axis=(0, 1))).tolist()
        turn = np.eye(4)
        turn[2, 2], turn[2, 3] = -1, truth.shape[2] - 1
        nibabel.save(nibabel.Nifti1Image(truth[..., ::-1].astype(np.uint8), affine @ turn), scan["label"])
    (folder / "datalist.json").write_text(json.dumps(told))


def test_thresholds_are_all_tried(tmp_path):
    """On maps whose best threshold is known; slices that are not annotated and scans without a mask do not choose."""
    prepare_phantom(tmp_path / "data", scans=6, seed=1, size=48, slices=6)
    scores, scans = tmp_path / "scores", load_datalist(tmp_path / "data" / "datalist.json")
    scores.mkdir()
    rng = np.random.default_rng(0)
    expected = []
    for scan in scans:
        truth, affine = read_mask(scan["label"])
        noise = rng.uniform(0, 0.5, truth.shape)
        score = np.where(truth > 0, rng.uniform(0.4, 0.9, truth.shape), noise).astype(np.float32)
        name = scan["image"].rpartition("/")[2].removesuffix(".nii.gz")
        nibabel.save(nibabel.Nifti1Image(score, affine), scores / f"{name}_score.nii.gz")
        for z in np.flatnonzero((truth > 0).any(axis=(0, 1))):
            true = truth[..., z] > 0
            expected.append([2 * (true & (score[..., z] >= t)).sum() / (true.sum() + (score[..., z] >= t).sum())
                             for t in (0.01, 0.31, 0.45, 0.89)])  # fmt: skip
    table = tmp_path / "threshold.csv"
    best = best_threshold(scores, tmp_path / "data" / "datalist.json", output=table)
    assert 0.4 <= best <= 0.55
    rows = {line.split(",")[0]: float(line.split(",")[1]) for line in table.read_text().splitlines()[1:]}
    assert len(rows) == 50
    for t, dice in zip(("0.01", "0.31", "0.45", "0.89"), np.mean(expected, axis=0), strict=True):
        assert rows[t] == pytest.approx(dice, abs=2e-4)
    assert rows[f"{best:.2f}"] == max(rows.values())
    run_bundle("hgi_sam", "threshold.yaml", {"dataset_dir": str(tmp_path / "data"), "scores": str(scores), "folds": [0],
                                             "output_dir": str(tmp_path / "chosen")})  # fmt: skip
    assert (tmp_path / "chosen" / "threshold.csv").is_file()
    _turned_upside_down(tmp_path / "data", scans)
    before = table.read_text()
    assert best_threshold(scores, tmp_path / "data" / "datalist.json", output=table) == best
    assert table.read_text() == before
    next(scores.iterdir()).unlink()
    with pytest.raises(IchsegError, match="make maps with save_scores"):
        best_threshold(scores, tmp_path / "data" / "datalist.json")
