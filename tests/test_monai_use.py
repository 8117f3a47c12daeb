"""Our transforms, data sets and bundles in the hands of MONAI: batches, its readers, other folders, lazy steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import segmenter_file
from monai.bundle import ConfigWorkflow
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.inferers import SliceInferer
from monai.transforms import Compose, Spacingd

from ichseg import transforms
from ichseg.bundle import bundle_folder, weight_file
from ichseg.data import load_datalist
from ichseg.errors import ScanError
from ichseg.folder import ScanDataset
from ichseg.inference import SliceBatchInferer
from ichseg.io import read_mask, read_volume, write_volume
from ichseg.transforms import SlicesLastd, head_ct_loader

AXIAL = np.diag([-0.5, -0.5, 5.0, 1.0])
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    from ichseg.synthetic.phantom import prepare_phantom

    folder = tmp_path_factory.mktemp("phantoms")
    prepare_phantom(folder, scans=1, seed=0, size=64, slices=24)
    return load_datalist(folder / "datalist.json")[0]


def loading(*more):
    return Compose([head_ct_loader("image", "label"), *more])


@pytest.mark.parametrize("config", ["inference.yaml", "train.yaml"])
def test_a_bundle_run_from_elsewhere_uses_its_own_weights(config, tmp_path, monkeypatch, caplog):
    copy = tmp_path / "mine"
    shutil.copytree(bundle_folder("ich_segmentation") / "configs", copy / "configs")
    (copy / "models").mkdir()
    own = segmenter_file(copy / "models" / "model.pt", "lite")
    monkeypatch.chdir(tmp_path)

    key = "weight_file" if config == "inference.yaml" else "init_weights"
    workflow = ConfigWorkflow(config_file=str(copy / "configs" / config), logging_file=False)
    workflow.parser["run"] = ["$@" + key]
    assert workflow._run_expr("run") == [own]
    own.unlink()
    workflow = ConfigWorkflow(config_file=str(copy / "configs" / config), logging_file=False)
    workflow.parser["run"] = ["$@" + key]
    assert workflow._run_expr("run") == [bundle_folder("ich_segmentation") / "models" / "model.pt"]
    assert "the model shipped with ichseg is used" in caplog.text


def test_a_model_in_the_current_folder_is_not_taken_for_the_shipped_one(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    segmenter_file(tmp_path / "models" / "model.pt", "lite")
    monkeypatch.chdir(tmp_path)

    class Workflow:
        """A bundle of another kind, with a transform that calls ``ichseg.segment``."""

        def __init__(self):
            self.config_root_path = tmp_path / "configs"

        def run(self):
            return weight_file()

    assert weight_file() == Workflow().run() == bundle_folder("ich_segmentation") / "models" / "model.pt"
    assert weight_file(None, ".") == Path("models/model.pt")


def test_keys_of_a_users_own_may_be_like_the_bundles(scan, tmp_path):
    overlay = tmp_path / "mine.yaml"
    file = bundle_folder("ich_segmentation") / "configs" / "inference.yaml"
    shutil.copy(file, tmp_path / "inference.yaml")
    for text, refused in (("data_dir: x\ndataset_dir: '@data_dir'\n", False), ("data_dir: x\n", True)):
        overlay.write_text(text)
        workflow = ConfigWorkflow([str(tmp_path / "inference.yaml"), str(overlay)], logging_file=False)
        if refused:
            with pytest.raises(RuntimeError) as error:
                workflow.initialize()
            assert "data_dir: not a key" in str(error.value.__cause__)
        else:
            workflow.initialize()


def test_masks_of_another_orientation_are_not_written_over_the_scans(scan, tmp_path):
    volume = read_volume(scan["image"])
    turned = tmp_path / "ras.nii.gz"
    affine = TO_LPS @ AXIAL
    affine[:3, 3] = (10, 20, 30)
    write_volume(turned, volume.array[::-1, ::-1], affine)
    loader = head_ct_loader()
    item = loader({"image": str(turned)})
    mask = item["image"] > 40
    save = transforms.SaveImageMaskd("image", tmp_path / "out")
    with pytest.raises(ScanError, match=r"not on the grid of .*ras.nii.gz \(its affine differs\); Invertd"):
        save({"image": mask})
    assert not list(tmp_path.glob("out/*"))
    save(loader.transforms[-1].inverse({"image": mask}))
    found, stored = read_mask(tmp_path / "out" / "ras_ich.nii.gz")
    assert np.array_equal(found, volume.array[::-1, ::-1] > 40) and np.allclose(stored, affine)


def test_affines_to_the_left_and_back_are_understood():
    values = torch.rand(1, 8, 6, 4)
    ras = MetaTensor(values, affine=torch.as_tensor(AXIAL), meta={"space": "RAS"})
    lps = MetaTensor(values, affine=torch.as_tensor(TO_LPS @ AXIAL), meta={"space": "LPS"})
    turn = SlicesLastd("image")
    here, there = (turn({"image": one})["image"] for one in (ras, lps))
    assert torch.equal(here.as_tensor(), there.as_tensor()) and torch.allclose(here.affine, there.affine)
    assert torch.allclose(lps.affine, torch.as_tensor(TO_LPS @ AXIAL))  # the one that was given stays
    assert torch.equal(turn.inverse({"image": there})["image"].as_tensor(), values)


def test_lazy_steps_before_turning_count():
    affine = torch.diag(torch.tensor([1.0, 5.0, 1.0, 1.0]))
    volume = MetaTensor(torch.rand(1, 20, 8, 20), affine=affine)
    eager, lazy = (
        Compose([Spacingd("image", (1.0, 1.0, 1.0)), SlicesLastd("image")], lazy=lazy)({"image": volume})["image"]
        for lazy in (False, True)
    )
    assert eager.shape == lazy.shape and torch.allclose(eager.affine, lazy.affine)


def test_a_crop_needs_one_grid(scan):
    item = loading()(scan)
    item["label"] = item["label"][..., ::2]
    with pytest.raises(ValueError, match=r"volume \(64, 64, 12\) and image \(64, 64, 24\) must be on one grid"):
        transforms.HeadCropd(["image", "label"], 32)(item)


def test_batches_of_scans(scan):
    steps = loading(transforms.BrainWindowd("image"), transforms.NeighborSlicesd("image"))
    batch = next(iter(DataLoader(Dataset([scan, scan], steps), batch_size=2)))
    network = torch.nn.Conv2d(3, 2, 3, padding=1)
    with torch.no_grad():
        found = SliceBatchInferer()(batch["image"], network)
        expected = SliceInferer(roi_size=(64, 64), spatial_dim=2)(batch["image"], network)
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor())
    assert found.is_batch and found[0].affine.shape == (4, 4)
    assert torch.equal(found[0].affine, expected[0].affine) and batch["image"][:1].shape[0] == 1


def test_scans_with_and_without_flags_go_into_one_batch(scan, tmp_path):
    volume = read_volume(scan["image"])
    array = volume.array.copy()
    array[0, 0, 0] = np.nan
    write_volume(tmp_path / "flagged.nii.gz", array, volume.affine)
    data = [{"image": scan["image"]}, {"image": str(tmp_path / "flagged.nii.gz")}]
    clean, flagged = decollate_batch(next(iter(DataLoader(Dataset(data, head_ct_loader()), batch_size=2))))
    assert transforms.volumes.remarks_of(clean["image"]) == []
    assert transforms.volumes.remarks_of(flagged["image"]) == ["1 NaN or infinite voxels set to air"]
    measure = transforms.MeasureHemorrhaged("label")
    for one in (clean, flagged):
        window = transforms.BrainWindow()(one["image"])
        assert measure({"image": window, "label": one["image"] > 60})["measured"]["volume_ml"] > 0


def test_arrays_become_tensors_whatever_is_in_them():
    clipped = np.full((1, 8, 8, 2), 80.0, np.float32)
    for values in (clipped, clipped * 20, clipped * 0):
        assert isinstance(transforms.RestoreBone(100.0)(values), torch.Tensor)
    mask = np.zeros((1, 8, 8, 2), np.uint8)
    for change in (transforms.RemoveSmallLesions(0.0), transforms.RemoveSmallLesions(1.0, (1, 1, 1)),
                   transforms.FillSmallHoles(0.0), transforms.FillSmallHoles(1.0, (1, 1, 1))):  # fmt: skip
        assert isinstance(change(mask), torch.Tensor)
    for change in (transforms.AverageSlabs(), transforms.RemoveCupping(enabled=False)):
        assert isinstance(change(clipped), torch.Tensor)


def test_data_without_a_case_is_named_after_its_file():
    given = [{"image": "a/b.nii.gz"}, {"image": "c.nii", "case": "mine"}]
    assert [entry["case"] for entry in ScanDataset(given, dict).data] == ["b", "mine"]


def test_hemorrhage_is_drawn_into_one_channel_only():
    with pytest.raises(ValueError, match=r"key 'image': expected one channel, not shape \(3, 8, 8\)"):
        transforms.RandImplantHemorrhaged(prob=0.0)({"image": torch.zeros(3, 8, 8), "label": torch.tensor(0)})


def test_absent_keys_are_left_out(tmp_path):
    for transform in (
        transforms.GateSlicesd("pred", by="label", allow_missing_keys=True),
        transforms.SaveSliceProbabilityd("pred", tmp_path, allow_missing_keys=True),
        transforms.CheckSameGridd("label", allow_missing_keys=True),
    ):
        assert transform({"other": 1}) == {"other": 1}


def test_weights_of_a_gpu_training_are_readable_without_one(tmp_path):
    """Tensors are written from the CPU, wherever they were."""
    from ichseg.networks import save_weights

    class There(torch.Tensor):
        def cpu(self):
            return torch.ones(2)

    save_weights(tmp_path / "w.pt", {"a": torch.zeros(2).as_subclass(There)}, {"size": 64})
    assert torch.load(tmp_path / "w.pt", weights_only=True)["a"].tolist() == [1, 1]
