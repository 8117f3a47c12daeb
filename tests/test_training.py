"""Checkpoints, early stopping, dense supervision by implants."""

from __future__ import annotations

import math

import pytest
import torch
from ignite.engine import Engine
from monai.losses import DiceCELoss
from torch import nn

from ichseg.cli import main
from ichseg.data import balanced_sampler, load_masked
from ichseg.errors import IchsegError
from ichseg.networks import ClassifierSettings, DeeplySupervised, slice_classifier
from ichseg.training import ImplantLoss, TrainingCheckpoint, WeakSegmentationLoss, batch_with_mask, score_and_label


class Fake:
    """A trainer whose validation metric follows a script."""

    def __init__(self, folder, scores, mode="max", patience=2, keep="best"):
        self.network = nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9)
        self.evaluator = Engine(lambda engine, batch: None)
        self.scores, self.seen = scores, []
        self.trainer = Engine(self.step)
        settings = ClassifierSettings("resnet34", 64, 50, 130)
        parts = (folder, self.network, self.optimizer, self.evaluator, "score", settings)
        self.checkpoint = TrainingCheckpoint(*parts, mode, patience, keep=keep)
        self.checkpoint.attach(self.trainer)

    def step(self, engine, batch):
        epoch = engine.state.epoch
        self.seen.append(epoch)
        nn.init.constant_(self.network.weight, epoch)
        self.evaluator.state.metrics["score"] = self.scores[epoch - 1]

    def run(self, epochs, steps=1):
        self.trainer.run([0] * steps, max_epochs=epochs)
        return self


def weight(file):
    return float(torch.load(file, weights_only=True)["weight"])


def test_best_is_kept_and_training_stops(tmp_path):
    fake = Fake(tmp_path, [0.5, 0.7, 0.6, 0.6, 0.9]).run(5)
    assert fake.seen == [1, 2, 3, 4] and weight(tmp_path / "model.pt") == 2


def test_lower_may_be_better(tmp_path):
    Fake(tmp_path, [0.5, 0.3, 0.4], "min").run(3)
    assert weight(tmp_path / "model.pt") == 2


def test_resuming_remembers_epoch_best_and_patience(tmp_path):
    scores = [0.5, 0.7, 0.6, 0.65, 0.9]
    Fake(tmp_path, scores).run(3)
    again = Fake(tmp_path, scores).run(5)
    assert again.seen == [4]  # one epoch without a new best before, one after: patience is used up
    assert weight(tmp_path / "model.pt") == 2
    assert Fake(tmp_path, scores).run(5).seen == []  # stopped stays stopped
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["checkpoint.pt", "model.pt"]


def test_the_last_is_kept_however_long_epochs_are(tmp_path):
    Fake(tmp_path, [0.9, 0.5], keep="last").run(2, steps=6)
    assert weight(tmp_path / "model.pt") == 2
    Fake(tmp_path, [0.9, 0.5, 0.4, 0.3], keep="last").run(4, steps=2)
    assert weight(tmp_path / "model.pt") == 4
    with pytest.raises(IchsegError, match="score is not a number after epoch 5"):
        Fake(tmp_path, [0.9, 0.5, 0.4, 0.3, math.nan], keep="last").run(5)


def test_stopping_is_said(tmp_path, caplog, capfd):
    with caplog.at_level("INFO", logger="ichseg"):
        Fake(tmp_path, [0.9, 0.5, 0.4, 0.3]).run(4)
    assert "score has not improved for 2 epochs; stopping" in caplog.text
    assert "EarlyStopping" not in capfd.readouterr().err
    with pytest.raises(ValueError, match="patience must be at least 1 epoch, not 0"):
        Fake(tmp_path, [0.9], patience=0)


def test_a_checkpoint_of_an_early_version_is_named(tmp_path):
    torch.save({"network": {}, "optimizer": {}, "epoch": 1, "best": None} | {"stopping": 1}, tmp_path / "checkpoint.pt")
    with pytest.raises(IchsegError, match=r"checkpoint\.pt: "):
        Fake(tmp_path, [0.9]).run(1)
    torch.save({"network": {}, "optimizer": {}, "epoch": 1}, tmp_path / "checkpoint.pt")
    with pytest.raises(IchsegError, match=r"checkpoint\.pt: written by another version of ichseg"):
        Fake(tmp_path, [0.9]).run(1)


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    Fake(tmp_path, [0.5]).run(1)
    other = Fake(tmp_path, [0.5, 0.6])
    other.checkpoint.parts["network"] = nn.Linear(3, 3)
    with pytest.raises(IchsegError, match=r"checkpoint\.pt: checkpoint of a different network"):
        other.run(2)


def test_a_metric_that_is_no_number_stops_with_a_reason(tmp_path):
    with pytest.raises(IchsegError, match="score is not a number after epoch 1"):
        Fake(tmp_path, [math.nan]).run(1)


def test_supervised_stages_see_the_implant_and_leave_no_trace_in_the_classifier():
    torch.manual_seed(0)
    classifier = slice_classifier("resnet34")
    keys = set(classifier.state_dict())
    network = DeeplySupervised(classifier, ["layer1", "layer2"])
    x = torch.rand(3, 1, 64, 64)
    mask = torch.zeros(3, 1, 64, 64)
    mask[1, :, 20:40, 20:40] = 1
    mask[2] = -1  # real hemorrhage, mask unknown
    target = {"label": torch.tensor([0, 1, 1]), "mask": mask}
    logits = network.train()(x)
    assert [tuple(m.shape[1:]) for m in network.mask_logits] == [(1, 16, 16), (1, 8, 8)]
    plain = nn.functional.cross_entropy(logits, target["label"])
    loss = ImplantLoss(network, weight=1.0)(logits, target)
    torch.testing.assert_close(ImplantLoss(network, weight=0.0)(logits, target), plain)
    assert loss > plain
    loss.backward()
    assert classifier.layer1[0].conv1.weight.grad.abs().sum() > 0 and network.heads[0].weight.grad.abs().sum() > 0
    # The slice of unknown mask counts through its label only.
    changed = {**target, "mask": torch.cat([mask[:2], mask[2:] * 5])}
    torch.testing.assert_close(ImplantLoss(network)(logits, changed), loss)
    assert set(classifier.state_dict()) == keys
    assert network.eval()(x).shape == (3, 2) and network.mask_logits == []


def test_batches_carry_masks():
    batch = {
        "image": torch.zeros(2, 1, 4, 4),
        "label": torch.tensor([0, 1]),
        "mask": torch.zeros(2, 1, 4, 4),
        "case": "x",
    }
    image, target = batch_with_mask(batch, torch.device("cpu"))
    assert image.shape == (2, 1, 4, 4) and set(target) == {"label", "mask"}


def test_scores_are_probabilities_of_hemorrhage():
    score, label = score_and_label({"pred": torch.tensor([[0.0, 2.0], [1.0, 1.0]]), "label": torch.tensor([1, 0])})
    assert score.flatten().tolist() == pytest.approx([1 / (1 + math.exp(-2)), 0.5]) and label.shape == (2, 1)


class Slices:
    def __init__(self, positive):
        self.positive = torch.tensor(positive)


def test_balanced_sampler_draws_the_share_asked_for():
    sampler = balanced_sampler(Slices([True] * 10 + [False] * 190), 0.4, 5000)
    drawn = torch.tensor(list(sampler))
    assert abs(float((drawn < 10).float().mean()) - 0.4) < 0.03
    with pytest.raises(IchsegError, match="cannot balance: 0 of 5"):
        balanced_sampler(Slices([False] * 5))


def test_supervision_by_implants_reads_no_mask_and_only_negative_slices(phantoms):
    scans = load_masked(phantoms / "datalist.json", [0], supervision="implants")
    assert "label" not in scans[0]
    assert all(scans[0]["slice_labels"][i] == 0 for i in scans[0]["label_slices"]) and scans[0]["label_slices"]
    with pytest.raises(IchsegError, match="supervision must be one of pseudo, masks, implants"):
        load_masked(phantoms / "datalist.json", supervision="pixels")


def test_slice_labels_teach_where_no_mask_does():
    torch.manual_seed(0)
    plain = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    logits = torch.randn(4, 2, 20, 20, requires_grad=True)
    mask = torch.zeros(4, 1, 20, 20)
    mask[1, 0, 3:9, 3:9] = 1
    assert WeakSegmentationLoss(plain)(logits, mask) == plain(logits, mask)
    unknown = mask.clone()
    unknown[3] = -1
    assert WeakSegmentationLoss(plain)(logits, unknown) == plain(logits[:3], mask[:3])  # no weight: left out
    (gradient,) = torch.autograd.grad(WeakSegmentationLoss(plain)(logits, unknown), logits)
    assert not gradient[3].any() and gradient[:3].any()
    loss = WeakSegmentationLoss(plain, weight=2.0, share=0.01)
    top = (logits[:, 1] - logits[:, 0]).flatten(1).sort(dim=1).values[:, -4:].mean(dim=1)
    slices = nn.functional.binary_cross_entropy_with_logits(top, torch.tensor([0.0, 1, 0, 1]))
    assert torch.isclose(loss(logits, unknown), plain(logits[:3], mask[:3]) + 2 * slices)
    (gradient,) = torch.autograd.grad(loss(logits, unknown), logits)
    touched = gradient[3, 1] != 0  # the four most suspicious pixels, pushed up
    assert touched.sum() == 4 and (gradient[3, 1][touched] < 0).all()
    assert torch.isfinite(loss(logits, torch.full_like(mask, -1))) and loss(logits[:1], mask[:1]) > 0
    for wrong in ({"weight": -1}, {"share": 0}, {"share": 2}):
        with pytest.raises(ValueError, match="weight must be at least 0"):
            WeakSegmentationLoss(plain, **wrong)


def test_training_goes_on_with_what_it_began_with(phantoms, tmp_path, capsys):
    """Other folds would be trained on what was held out."""
    words = ["train-segmenter", "--datalist", str(phantoms / "datalist.json"), "--output", str(tmp_path / "run")]
    words += [
        "--size",
        "32",
        "--device",
        "cpu",
        "--set",
        "supervision=masks",
        "--set",
        "architecture=small",
        "--epochs",
    ]
    assert main([*words, "1", "--train-folds", "0-2", "--val-folds", "3"]) == 0
    capsys.readouterr()
    for changed in (["--train-folds", "2,3", "--val-folds", "0"], ["--set", "learning_rate=0.5"]):
        given = ["--train-folds", "0-2", "--val-folds", "3", *changed]
        assert main([*words, "2", *given]) == 2
        assert "choose another output folder" in capsys.readouterr().err
    assert main([*words, "2", "--train-folds", "0-2", "--val-folds", "3"]) == 0


def test_what_was_not_measured_is_said(tmp_path):
    fake = Fake(tmp_path, [0.5])
    fake.metric = None
    fake.step = lambda engine, batch: None
    trainer = Engine(fake.step)
    fake.checkpoint.attach(trainer)
    with pytest.raises(IchsegError, match="score was not measured after epoch 1: set val_interval to 1"):
        trainer.run([0], max_epochs=1)


def test_in_a_log_the_bar_is_a_line_now_and_then(monkeypatch, caplog):
    from ignite.engine import Engine

    from ichseg.training import EpochBar, history

    def lines(seconds):
        monkeypatch.setattr(history, "LINE_SECONDS", seconds)
        engine = Engine(lambda *_: None)
        EpochBar().attach(engine)
        caplog.clear()
        with caplog.at_level("INFO", logger="ichseg"):
            engine.run(range(2), max_epochs=2)
        return [record.getMessage() for record in caplog.records]

    assert lines(60.0) == []
    assert lines(-1.0) == [f"epoch {epoch} of 2: {batch} of 2 batches" for epoch in (1, 2) for batch in (1, 2)]
