"""Training the shipped kind of network further on masks."""

from __future__ import annotations

import csv
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import masked_pairs, segmenter_file
from ignite.engine import Events

from ichseg.bundle import bundle_folder, config_values, run_bundle
from ichseg.errors import IchsegError, chain
from ichseg.networks import SegmenterSettings, read_settings
from ichseg.training import PrepareMasked, TrainingCheckpoint, run_folder
from ichseg.training.checkpoint import FORMAT
from ichseg.transforms import head_ct_loader

PARTS = {"train": (0, 1), "validate": (4,)}


@pytest.fixture
def bundle(tmp_path):
    """A bundle of one's own, with small weights."""
    folder = tmp_path / "ich_segmentation"
    shutil.copytree(bundle_folder("ich_segmentation"), folder, ignore=shutil.ignore_patterns("*.pt", "runs"))
    (folder / "models").mkdir(exist_ok=True)
    segmenter_file(folder / "models" / "model.pt", threshold=0.25, score_slope=2.0)
    return folder


def trained(bundle, phantoms, **values):
    given = {"dataset_dir": str(phantoms), "epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "val_folds": [4]}
    run_bundle("ich_segmentation", "train.yaml", {**given, "bundle_root": bundle, "device_name": "cpu", **values})


def test_weights_go_on_and_keep_their_settings(bundle, phantoms, tmp_path):
    before = (bundle / "models" / "model.pt").read_bytes()
    trained(bundle, phantoms, output_dir=tmp_path / "run")
    assert (bundle / "models" / "model.pt").read_bytes() == before
    old, new = (
        read_settings(file, SegmenterSettings)
        for file in (bundle / "models" / "model.pt", tmp_path / "run" / "model.pt")
    )
    assert new == old and new.threshold == 0.25 and new.score_slope == 2
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    assert len(rows) == 2 and float(rows[1]["val_loss"]) < float(rows[0]["val_loss"])
    starts, ends = (
        torch.load(file, weights_only=True) for file in (bundle / "models" / "model.pt", tmp_path / "run" / "model.pt")
    )
    moved = [key for key in starts if not torch.equal(starts[key], ends[key])]
    assert starts.keys() == ends.keys() and "members.0.outline.3.weight" in moved


def test_pairs_of_image_and_label_replace_the_bundles_weights(bundle, phantoms):
    before = (bundle / "models" / "model.pt").read_bytes()
    values = {f"{part}::dataset::data": masked_pairs(phantoms, folds) for part, folds in PARTS.items()}
    for number in (1, 2):  # twice: each time from where the bundle is
        start = (bundle / "models" / "model.pt").read_bytes()
        trained(bundle, phantoms, epochs=1, **values)
        assert (bundle / "models" / "model_before.pt").read_bytes() == start
        made = bundle / "runs" / f"finetuned_{number}" / "model.pt"
        assert (bundle / "models" / "model.pt").read_bytes() == made.read_bytes() != start
    assert run_folder(None, bundle) == bundle / "runs" / "finetuned_3"
    assert (bundle / "models" / "model_before.pt").read_bytes() != before


def test_nothing_to_validate_on_is_one_line(bundle, phantoms):
    with pytest.raises(Exception) as caught:
        trained(bundle, phantoms, **{"validate::dataset::data": []})
    assert any(isinstance(link, IchsegError) and "no scans" in str(link) for link in chain(caught.value))
    assert not list(bundle.glob("models/model_before.pt"))


def test_inputs_are_those_of_inference():
    def steps(name):
        return list(config_values("ich_segmentation", name)["preprocessing"]["transforms"])

    beside = {"CopyItemsd", "ichseg.transforms.CompareAppearanced"}
    shown = [step for step in steps("inference.yaml") if step["_target_"] not in beside]
    loading = [type(step).__name__ for step in head_ct_loader().transforms]
    assert [step["_target_"].split(".")[-1] for step in shown[: len(loading)]] == loading
    assert steps("train.yaml")[0]["_target_"].endswith("head_ct_loader")
    for mine, its in zip(steps("train.yaml")[1:], shown[len(loading) :], strict=True):
        assert mine["_target_"] == its["_target_"]
        same = set(mine) & set(its) - {"keys", "mode"}
        assert [mine[key] for key in sorted(same)] == [its[key] for key in sorted(same)]


def test_targets_are_the_masks_and_whether_there_is_one():
    image, mask = torch.rand(3, 3, 8, 8), torch.zeros(3, 1, 8, 8)
    mask[1, 0, 2:4, 2:5] = 1
    x, target = PrepareMasked()({"image": image, "label": mask}, torch.device("cpu"))
    assert torch.equal(x, image) and torch.equal(target["mask"], mask) and target["label"].tolist() == [0, 1, 0]
    _, doubled = PrepareMasked(lambda a, b: (a / 2, 1 - b))({"image": image, "label": mask}, torch.device("cpu"))
    np.testing.assert_array_equal(doubled["mask"], 1 - mask)
    assert doubled["label"].tolist() == [0, 1, 0]


def test_what_is_not_better_than_the_start_replaces_nothing(bundle, phantoms, caplog):
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    next(value for key, value in state.items() if key.endswith("running_mean"))[0] = 1e-40
    torch.save(state, bundle / "models" / "model.pt")
    before = (bundle / "models" / "model.pt").read_bytes()
    trained(bundle, phantoms, epochs=1, learning_rate=0.5)
    assert (bundle / "models" / "model.pt").read_bytes() == before
    assert not (bundle / "models" / "model_before.pt").exists()
    files = (bundle / "models" / "model.pt", bundle / "runs" / "finetuned_1" / "model.pt")
    start, kept = (torch.load(file, weights_only=True) for file in files)
    assert all(torch.allclose(start[key], kept[key], rtol=0, atol=1e-38) for key in start)
    assert "no epoch was better than the start" in caplog.text


class Cut(RuntimeError):
    pass


def cut_after(epochs):
    """Interrupts once the last epoch of this many is on the disk."""

    def attached(self, engine, attach=TrainingCheckpoint.attach):
        attach(self, engine)

        @engine.on(Events.EPOCH_COMPLETED)
        def _(engine):
            if engine.state.epoch == epochs:
                raise Cut

    return attached


def test_interrupted_without_a_folder_goes_on(bundle, phantoms, monkeypatch, caplog):
    caplog.set_level("INFO", "ichseg")
    with monkeypatch.context() as patched, pytest.raises(Exception) as caught:
        patched.setattr(TrainingCheckpoint, "attach", cut_after(1))
        trained(bundle, phantoms)
    assert any(isinstance(link, Cut) for link in chain(caught.value))
    trained(bundle, phantoms, learning_rate=2e-3)  # another run: begins anew
    assert len(list(csv.DictReader((bundle / "runs" / "finetuned_2" / "history.csv").open()))) == 2
    shutil.copyfile(bundle / "models" / "model_before.pt", bundle / "models" / "model.pt")
    trained(bundle, phantoms)
    assert "finetuned_1/checkpoint.pt after epoch 1" in caplog.text
    assert len(list(csv.DictReader((bundle / "runs" / "finetuned_1" / "history.csv").open()))) == 2
    assert run_folder(None, bundle) == bundle / "runs" / "finetuned_3"
    assert not list(bundle.glob("runs/*/checkpoint.pt"))


def test_a_run_with_a_changed_part_is_another(bundle):
    (bundle / "runs" / "finetuned_1").mkdir(parents=True)
    part = {"train::trainer::amp": True}
    settings = {"seed": 0, "threshold": 0.25, **part}  # the second travels in the weight file
    file = bundle / "runs" / "finetuned_1" / "checkpoint.pt"
    torch.save({"settings": settings, "format": FORMAT - 1}, file)  # could not be resumed
    assert run_folder(None, bundle, {"seed": 0, **part}).name == "finetuned_2"
    file.write_bytes(b"cut off")
    assert run_folder(None, bundle, {"seed": 0, **part}).name == "finetuned_2"
    torch.save({"settings": settings, "format": FORMAT}, file)
    assert run_folder(None, bundle, {"seed": 0, **part}).name == "finetuned_1"
    assert (
        run_folder(None, bundle, {"seed": 0}).name
        == run_folder(None, bundle, {"seed": 1, **part}).name
        == "finetuned_2"
    )


def test_a_run_on_other_data_does_not_resume(bundle, phantoms, tmp_path, caplog):
    caplog.set_level("INFO", "ichseg")
    trained(bundle, phantoms, output_dir=tmp_path / "run", epochs=1)
    trained(bundle, phantoms, output_dir=tmp_path / "run", epochs=1)
    assert "after epoch 1 (finished)" in caplog.text
    with pytest.raises(Exception) as caught:
        trained(bundle, phantoms, output_dir=tmp_path / "run", epochs=1, train_folds=[0])
    assert "trained with train_folds [0, 1, 2], now [0]" in str(last(caught)) and "choose another output folder" in str(
        last(caught)
    )


def last(caught):
    """The error of ours among those around it."""
    return next(link for link in chain(caught.value) if isinstance(link, IchsegError))


def test_training_and_validation_share_no_fold(bundle, phantoms, tmp_path):
    with pytest.raises(Exception) as caught:
        trained(bundle, phantoms, output_dir=tmp_path / "run", val_folds=[2, 3])
    assert str(last(caught)) == "fold 2 is used for both training and validation"


@pytest.mark.parametrize("change", ["cropped", "identity", "shifted", "finer", "fewer slices"])
def test_masks_of_another_grid_are_refused(bundle, phantoms, tmp_path, change):
    pairs = masked_pairs(phantoms, (0, 1))
    image = nib.load(pairs[0]["label"])
    array, affine = np.asarray(image.dataobj), image.affine.copy()
    if change == "cropped":
        array = array[2:]
    elif change == "identity":
        affine = np.eye(4)
    elif change == "shifted":
        affine[:3, 3] += 9
    elif change == "finer":
        array, affine = array.repeat(2, axis=0), affine @ np.diag([0.5, 1, 1, 1])
    else:
        array = array[..., :-1]
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "mask.nii.gz")
    pairs[0]["label"] = str(tmp_path / "mask.nii.gz")
    with pytest.raises(Exception) as caught:
        trained(bundle, phantoms, output_dir=tmp_path / "run", **{"train::dataset::data": pairs})
    assert str(last(caught)).startswith(f"{tmp_path / 'mask.nii.gz'}: not on the grid of {pairs[0]['image']} (")


def test_fewer_samples_than_a_batch_still_train(bundle, phantoms, tmp_path):
    trained(bundle, phantoms, output_dir=tmp_path / "run", epochs=1, batch_size=8, samples_per_epoch=4)
    (row,) = csv.DictReader((tmp_path / "run" / "history.csv").open())
    assert float(row["train_loss"]) > 0
