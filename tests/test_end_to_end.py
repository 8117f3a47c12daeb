"""The whole path on tiny phantoms, from the command line: classifiers, pseudo-masks, U-Net, masks."""

from __future__ import annotations

import csv
import gzip
import json

import nibabel as nib
import numpy as np
import pytest
import torch

from ichseg.cli import main
from ichseg.data import load_datalist
from ichseg.io import read_mask

SMALL = ["--size", "64", "--batch-size", "8", "--device", "cpu", "--train-folds", "0-2", "--val-folds", "4"]


@pytest.fixture(scope="module")
def path(phantoms, tmp_path_factory):
    """Every stage once; the tests look at what it left."""
    runs = tmp_path_factory.mktemp("runs")
    datalist = str(phantoms / "datalist.json")
    train = ["train-classifier", "--datalist", datalist, "--output", str(runs / "classifiers"), *SMALL]
    assert main([*train, "--backbone", "resnet34", "--epochs", "2", "--workers", "1"]) == 0
    pseudo = ["pseudo-label", "--datalist", datalist, "--classifiers", str(runs / "classifiers")]
    pseudo += [
        "--output",
        str(runs / "pseudo"),
        "--device",
        "cpu",
        "--set",
        "gate_by=label",
        "--set",
        "crf_iterations=2",
    ]
    assert main(pseudo) == 0
    unet = ["train-segmenter", "--datalist", datalist, "--pseudo-labels", str(runs / "pseudo"), *SMALL]
    assert main([*unet, "--output", str(runs / "unet"), "--epochs", "2", "--workers", "1"]) == 0
    return runs


def rows(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_classifier_left_weights_history_and_a_board(path):
    folder = path / "classifiers" / "resnet34"
    history = rows(folder / "history.csv")
    assert [r["epoch"] for r in history] == ["1", "2"]
    assert {"train_loss", "val_loss", "val_auc", "learning_rate", "seconds"} <= set(history[0])
    assert all(0 <= float(r["val_auc"]) <= 1 for r in history)
    assert list(folder.glob("events.out.tfevents*"))
    assert all(isinstance(v, torch.Tensor) for v in torch.load(folder / "model.pt", weights_only=True).values())


@pytest.mark.slow
def test_training_goes_on_where_it_stopped(path, phantoms, capfd):
    before = torch.load(path / "classifiers" / "resnet34" / "checkpoint.pt", weights_only=True)
    assert before["epoch"] == 2
    train = ["train-classifier", "--datalist", str(phantoms / "datalist.json"), "--output", str(path / "classifiers")]
    assert main([*train, *SMALL, "--backbone", "resnet34", "--epochs", "3"]) == 0
    assert [r["epoch"] for r in rows(path / "classifiers" / "resnet34" / "history.csv")] == ["1", "2", "3"]
    assert torch.load(path / "classifiers" / "resnet34" / "checkpoint.pt", weights_only=True)["epoch"] == 3


def test_pseudo_masks_lie_on_the_scans_grid_and_spare_negative_slices(path, phantoms):
    table = rows(path / "pseudo" / "results.csv")
    assert [r["status"] for r in table] == ["ok"] * 5
    for scan in load_datalist(phantoms / "datalist.json"):
        mask, affine = read_mask(path / "pseudo" / f"{scan['case']}_pseudo.nii.gz")
        reference = nib.load(scan["image"])
        assert mask.shape == reference.shape and np.array_equal(affine, reference.affine)
        assert not mask[..., [i for i, v in enumerate(scan["slice_labels"]) if not v]].any()
    assert any(float(r["volume_ml"]) > 0 for r in table)


def test_segmenting_a_folder_survives_bad_files(path, phantoms, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "masks"
    (scans / "sub").mkdir(parents=True)
    source = phantoms / "images" / "phantom_001.nii.gz"
    (scans / "sub" / "good.nii.gz").write_bytes(source.read_bytes())
    (scans / "plain.nii").write_bytes(gzip.decompress(source.read_bytes()))
    (scans / "cut.nii.gz").write_bytes(source.read_bytes()[:500])
    (scans / "plain.nii.gz").write_bytes(source.read_bytes())  # would write the same output as plain.nii
    (scans / "notes.txt").write_text("not a scan")
    (scans / "sub" / "link.nii.gz").symlink_to(source)
    weights = str(path / "unet" / "model.pt")
    command = ["segment", str(scans), str(out), "--weights", weights, "--device", "cpu"]
    assert main(command) == 1
    listed = rows(out / "results.csv")
    assert [r["case"] for r in listed] == ["cut", "plain", "plain", "sub/good", "sub/link"]
    table = dict(zip(["cut", "first", "second", "good", "link"], listed, strict=True))
    done = ("ok", "flagged")  # what so little training marks may be doubtful
    assert [r["status"] in done for r in listed] == [False, True, False, True, True]
    assert "cut.nii.gz: damaged or truncated gzip file" in table["cut"]["message"]
    assert "plain.nii.gz: same output name as" in table["second"]["message"]
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) == [
        ".journal.lock", "journal.jsonl", "plain_ich.nii.gz", "report.html", "report.json", "report_cases/plain.json",
        "report_cases/sub/good.json", "report_cases/sub/link.json", "results.csv", "results.jsonl",
        "sub/good_ich.nii.gz", "sub/link_ich.nii.gz"]  # fmt: skip
    mask = nib.load(out / "sub" / "good_ich.nii.gz")
    assert mask.shape == nib.load(source).shape and mask.get_data_dtype() == np.uint8
    voxel = abs(np.linalg.det(mask.affine[:3, :3])) / 1000
    assert float(table["first"]["volume_ml"]) == pytest.approx(np.asarray(mask.dataobj).sum() * voxel, abs=1e-3)
    single = tmp_path / "single"
    assert main(["segment", str(scans / "plain.nii"), str(single), *command[3:]]) == 0
    assert (single / "plain_ich.nii.gz").read_bytes() == (out / "plain_ich.nii.gz").read_bytes()


def test_evaluation_of_the_truth_is_perfect(phantoms, tmp_path, capsys):
    for scan in load_datalist(phantoms / "datalist.json"):
        mask, affine = read_mask(scan["label"])
        nib.save(nib.Nifti1Image((mask > 0).astype(np.uint8), affine), tmp_path / f"{scan['case']}_ich.nii.gz")
    assert main(["evaluate", str(tmp_path), str(phantoms / "datalist.json"), "--output", str(tmp_path / "out")]) == 0
    prediction, nothing, rule = rows(tmp_path / "out" / "evaluation.csv")
    assert float(prediction["foreground_iou"]) == 1 and float(prediction["FPL"]) == 0
    assert (
        float(nothing["foreground_iou"]) == 0 and nothing["FPL"] == "nan" and rule["method"] == "HU rule, no learning"
    )
    assert "all background" in capsys.readouterr().out
    detection = json.loads((tmp_path / "out" / "detection.json").read_text())
    assert detection["positive_slices_touched"] == 1 and detection["negative_slices_touched"] == 0
    assert detection["slice_auc"] == 1 and detection["patient_auc"] == 1
    assert detection["touched_IPH"] == 1 and detection["touched_EDH"] == 1


def test_demo(path, tmp_path, capsys):
    out = tmp_path / "demo"
    weights = str(path / "unet" / "model.pt")
    assert main(["demo", "--output", str(out), "--scans", "2", "--weights", weights, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "true mL" in printed and "phantom_001" in printed
    assert (out / "demo.png").stat().st_size > 20_000 and len(rows(out / "masks" / "results.csv")) == 2


def test_wrong_use_gets_one_line_and_exit_code_2(path, phantoms, tmp_path, capsys):
    scans, out = str(phantoms / "images"), str(tmp_path / "out")
    datalist = str(phantoms / "datalist.json")
    classifiers = tmp_path / "classifiers" / "resnet50"
    classifiers.mkdir(parents=True)
    (classifiers / "model.pt").write_bytes((path / "classifiers" / "resnet34" / "model.pt").read_bytes())
    lost = tmp_path / "lost.json"
    lost.write_text(
        (phantoms / "datalist.json").read_text().replace("images/", f"{scans}/").replace("labels/", f"{scans}/")
    )
    lost.write_text(lost.read_text().replace("phantom_002.nii.gz", "gone.nii.gz"))
    for words, told in (
        (["segment", str(tmp_path / "absent"), out], "absent: no such file or folder"),
        (["segment", scans, out, "--weights", str(tmp_path / "no.pt")], "no.pt: weight file not found"),
        (["segment", scans, out, "--device", "cuda:77"], "device 'cuda:77' is not available"),
        (["segment", scans, out, "--set", "treshold=0.3"], "'treshold' is not a key of"),
        (["pseudo-label", "--datalist", datalist, "--classifiers", scans, "--output", out], "no <backbone>/model.pt"),
        (
            ["pseudo-label", "--datalist", datalist, "--classifiers", str(classifiers.parent), "--output", out],
            "resnet50/model.pt: weights do not match",
        ),
        (
            ["train-segmenter", "--datalist", datalist, "--pseudo-labels", scans, "--output", out],
            "phantom_000_pseudo.nii.gz: pseudo-mask not found",
        ),
        (["pseudo-label", "--datalist", str(lost), "--classifiers", scans, "--output", out], "no <backbone>/model.pt"),
        (["train-classifier", "--datalist", str(lost), "--output", out], "(case phantom_002): image file not found"),
        (
            ["train-classifier", "--datalist", str(tmp_path / "no.json"), "--output", out],
            "no.json: no such file",
        ),
        (
            ["train-classifier", "--datalist", datalist, "--output", out, "--val-folds", "4", "--workers", "-1"],
            "num_workers must be at least 0, not -1",
        ),
        (
            ["train", "--datalist", datalist, "--output", out, "--val-folds", "3", "--workers", "-1"],
            "num_workers must be at least 0, not -1",
        ),
    ):
        capsys.readouterr()
        assert main(words) == 2, words
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ichseg: error")]
        assert len(lines) == 1 and told in lines[0], (words, lines)
    assert not (tmp_path / "out").exists()
