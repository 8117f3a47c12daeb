"""Label-efficient transfer, from task to masks: tasks that learn, weights that travel, patients that stay apart."""

from __future__ import annotations

import json

import pytest
import torch

from ichseg.bundle import BundleParts, run_bundle
from ichseg.cli import main
from ichseg.errors import IchsegError, first_cause
from ichseg.methods.label_efficient import (
    TASKS,
    LabelEfficientSegmenter,
    LogitMaskLoss,
    MaskLoss,
    PreparePretext,
    PretextLoss,
    PretextNetwork,
    PretextSettings,
    continued,
    pretrained_unet,
    some_patients,
    two_views,
)
from ichseg.networks import read_settings, save_weights, segmenter

SMALL = {"size": 64, "epochs": 1, "batch_size": 8, "device_name": "cpu", "positive_share": 0}


def values(phantoms, output, **more):
    return {"dataset_dir": str(phantoms), "output_dir": str(output), **SMALL, **more}


@pytest.fixture(scope="module")
def pretrained(phantoms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretext")
    run_bundle("label_efficient", "pretrain.yaml", values(phantoms, folder, task="binary"))
    return folder / "model.pt"


@pytest.mark.parametrize("moved", [True, False])
def test_views_stay_in_range_and_differ(moved):
    images = torch.rand(3, 1, 48, 48)
    one, other = two_views(images, moved)
    for view in (one, other):
        assert view.shape == images.shape and view.min() >= 0 and view.max() <= 1
    assert not torch.equal(one, other)


def test_views_of_the_local_task_share_their_place():
    images = torch.zeros(8, 1, 64, 64)
    images[:, :, 20:30, 24:34] = 1.0
    one, other = two_views(images, moved=False)
    for a, b in zip(one[:, 0], other[:, 0], strict=True):
        centers = [(torch.nonzero(view > view.mean() + 0.2).float()).mean(dim=0) for view in (a, b)]
        assert (centers[0] - centers[1]).abs().max() < 1.5


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_loss_that_teaches_the_encoder(task):
    torch.manual_seed(0)
    network, loss = PretextNetwork(task, filters=(4, 8, 8, 8, 8)).train(), PretextLoss(task)
    image = torch.rand(4, 1, 64, 64)
    batch = {"image": image, "changed": image.flip(-1), "label": torch.tensor([1, 0, 1, 0]),
             "targets": torch.tensor([[0, 1, 1, -1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]] * 2)}  # fmt: skip
    x, target = PreparePretext(task)(batch, torch.device("cpu"))
    value = loss(network(x), target)
    value.backward()
    taught = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert value.isfinite() and taught
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert bool(frozen) == (task == "local_contrast") and not frozen & taught
    if frozen:
        assert "unet.conv_0.conv_0.conv.weight" in frozen and any(name.startswith("unet.upcat_4") for name in taught)


def test_unknown_subtypes_teach_nothing():
    loss = PretextLoss("subtypes")
    logits = torch.zeros(1, 7, requires_grad=True)
    loss(logits, torch.tensor([[0, 1, -1, -1, -1, -1, -1]])).backward()
    assert (logits.grad[0, 2:] == 0).all() and (logits.grad[0, :2] != 0).all()


def test_tasks_are_checked():
    with pytest.raises(IchsegError, match="task 'jigsaw' is unknown; choose one of restoration"):
        PretextNetwork("jigsaw")


def test_fractions_nest_and_keep_both_kinds(phantoms):
    datalist = phantoms / "datalist.json"
    everyone = {scan["case"] for scan in some_patients(datalist)}
    half = some_patients(datalist, fraction=0.5, seed=1)
    few = some_patients(datalist, fraction=0.01, seed=1)
    assert {scan["case"] for scan in few} <= {scan["case"] for scan in half} <= everyone
    assert len(few) == 2 and {any(scan["slice_labels"]) for scan in few} == {True, False}
    with pytest.raises(IchsegError, match="fraction must be above 0"):
        some_patients(datalist, fraction=0)


def test_two_logits_are_one_probability():
    logits, masks = torch.randn(2, 1, 8, 8), (torch.rand(2, 1, 8, 8) > 0.5).float()
    both = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(LogitMaskLoss()(both, masks), MaskLoss()(logits.sigmoid(), masks))


def test_fine_tuning_starts_where_the_task_ended(phantoms, pretrained, tmp_path, capsys):
    assert read_settings(pretrained, PretextSettings).task == "binary"
    state = torch.load(pretrained, weights_only=True)
    network = pretrained_unet(segmenter("label_efficient"), pretrained)
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name])
    run_bundle("label_efficient", "train.yaml", values(phantoms, tmp_path / "run", pretrained=str(pretrained)))
    out = tmp_path / "masks"
    assert main(["segment", str(phantoms / "images"), str(out), "--weights", str(tmp_path / "run" / "model.pt"),
                 "--device", "cpu"]) == 0  # fmt: skip
    assert len(list(out.glob("*_ich.nii.gz"))) == len(list((phantoms / "images").iterdir()))


def test_less_than_the_encoder_is_refused(pretrained, tmp_path):
    state = torch.load(pretrained, weights_only=True)
    del state["down_2.convs.conv_0.conv.weight"]
    save_weights(tmp_path / "less.pt", state, PretextSettings("binary", 64, 50, 200))
    with pytest.raises(IchsegError, match="tensors of the encoder match"):
        pretrained_unet(segmenter("label_efficient"), tmp_path / "less.pt")
    with pytest.raises(IchsegError, match="are for architecture label_efficient"):
        pretrained_unet(segmenter("label_efficient_attention"), pretrained)


def test_anomalies_become_a_second_channel(phantoms, tmp_path):
    run_bundle("label_efficient", "pretrain.yaml", values(phantoms, tmp_path, task="anomaly"))
    network = pretrained_unet(LabelEfficientSegmenter(attention=True), tmp_path / "model.pt").eval()
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        before = network(x)
        network.anomaly.body[-1].weight.zero_()
        assert before.shape == (1, 2, 64, 64) and not torch.equal(network(x), before)
    assert not network.train().anomaly.training


def test_subtypes_need_a_table(phantoms, tmp_path):
    content = json.loads((phantoms / "datalist.json").read_text())
    for scan in content["training"]:
        scan["image"] = str(phantoms / scan["image"])
        scan.pop("label", None)
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    given = {**SMALL, "dataset_dir": str(tmp_path), "datalist": str(tmp_path / "datalist.json"), "task": "subtypes"}
    with pytest.raises(IchsegError, match=r"no slice_labels\.csv with subtypes"):
        BundleParts("label_efficient", "pretrain.yaml", given)["train::dataset"]


def test_the_local_task_starts_from_the_global_one(phantoms, tmp_path):
    with pytest.raises(IchsegError, match="needs init_weights"):
        continued(PretextNetwork("local_contrast"), None)
    run_bundle("label_efficient", "pretrain.yaml", values(phantoms, tmp_path / "global", task="global_contrast"))
    first = str(tmp_path / "global" / "model.pt")
    with pytest.raises(IchsegError, match="takes no init_weights"):
        continued(PretextNetwork("anomaly"), first)
    local = values(phantoms, tmp_path / "local", task="local_contrast", init_weights=first)
    run_bundle("label_efficient", "pretrain.yaml", local)
    before, after = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("global", "local"))
    same = [key for key in before if torch.equal(before[key], after[key])]
    assert {key for key in before if key.startswith(("conv_0", "down_"))} <= set(same) and len(same) < len(before)


def test_another_fraction_is_another_training(phantoms, tmp_path):
    given = values(phantoms, tmp_path / "run", fraction=1.0)
    run_bundle("label_efficient", "train.yaml", given)
    with pytest.raises(Exception) as told:
        run_bundle("label_efficient", "train.yaml", {**given, "fraction": 0.5, "epochs": 2})
    assert "trained with fraction" in str(first_cause(told.value))


def test_weights_of_subtypes_count_the_slices_that_are_drawn():
    class Told:
        targets = torch.tensor([[0, 1, 1, 0]] * 2 + [[1, 0, 0, 0]] * 8)

    natural, drawn = PretextLoss("subtypes", Told()).weights, PretextLoss("subtypes", Told(), 0.5).weights
    torch.testing.assert_close(natural, torch.tensor([0.25, 4.0, 4.0, 1.0]))
    torch.testing.assert_close(drawn, torch.tensor([1.0, 1.0, 1.0, 1.0]))
