"""The experiments: switches, the paper's arithmetic, thresholds counted exactly, and every table on phantoms."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import yaml
from experiment_data import SMALL, data, rows  # noqa: F401  # 'data' is a fixture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ichseg.bundle import bundle_folder
from ichseg.cli import main
from ichseg.data import load_datalist
from ichseg.defaults import METHODS
from ichseg.errors import IchsegError
from ichseg.experiments import DIFFERENCES, ROWS, TABLE4, THRESHOLDS, Counts, Row, Study, differences, published
from ichseg.experiments.counting import rule_of
from ichseg.experiments.rivals import RIVALS
from ichseg.io import read_mask

PAIR = ("resnet34", "resnet50")


# --- the paper's table ---------------------------------------------------------------------------------------------
def test_the_sixteen_quoted_differences_are_those_of_the_table(monkeypatch):
    assert 2 * len(DIFFERENCES) == 16 and published.wrong_differences() == []
    assert differences({row: values[1] for row, values in TABLE4.items()})["r5", "r1"] == pytest.approx(11.8)
    monkeypatch.setitem(published.TABLE4, "r6", (62.6, 63.0))
    assert len(published.wrong_differences()) == 2  # r6 - r5 and r7 - r6 on BCIHM


def test_the_papers_other_arithmetic():
    for values in published.TABLE2.values():
        assert all(cl + ml == pytest.approx(100) for cl, ml, _ in values)
    full, ours = published.TABLE1["U-Net, full supervision"], published.TABLE1["ResNet34+50"]
    assert [round(100 * o / f, 1) for o, f in zip(ours, full, strict=True)] == [88.5, 86.6]
    assert pytest.approx(1.78, abs=0.005) == (512 / 384) ** 2
    # What the printed mIoU means for hemorrhage, with a background IoU of about .99.
    implied = {name: 2 * values[0] / 100 - 0.99 for name, values in published.TABLE1.items()}
    assert implied["ResNet34+50"] == pytest.approx(0.41, abs=0.01) and implied["AffinityNet"] < 0
    # The same value stands for three things in the paper.
    assert published.TABLE3[384] == TABLE4["r6"] == (62.6, 63.7) != TABLE4["r7"]


def test_the_nine_rows_have_exactly_these_switches():
    assert {
        "r1": Row(models=(0, 1), sf_cam=False, scf=False, bla=False, dcrf=False, unet=False),
        "r2": Row(models=(0, 1), sf_cam=False, scf=True, bla=False, dcrf=False, unet=False),
        "r3": Row(models=(0,), sf_cam=True, scf=False, bla=False, dcrf=False, unet=False),
        "r4": Row(models=(1,), sf_cam=True, scf=False, bla=False, dcrf=False, unet=False),
        "r5": Row(models=(0, 1), sf_cam=True, scf=False, bla=False, dcrf=False, unet=False),
        "r6": Row(models=(0, 1), sf_cam=True, scf=True, bla=False, dcrf=False, unet=False),
        "r7": Row(models=(0, 1), sf_cam=True, scf=True, bla=True, dcrf=False, unet=False),
        "r8": Row(models=(0, 1), sf_cam=True, scf=True, bla=True, dcrf=True, unet=False),
        "r9": Row(models=(0, 1), sf_cam=True, scf=True, bla=True, dcrf=True, unet=True),
    } == ROWS
    assert ROWS["r2"].name(PAIR) == "resnet34+resnet50, Grad-CAM, SCF"
    known = yaml.safe_load((bundle_folder("ich_pseudo_segmentation") / "configs" / "inference.yaml").read_text())
    for row in ROWS.values():
        values = row.overrides(PAIR)
        assert set(values) <= set(known)
        assert ("fusion_weight" in values) == (not row.scf) and ("crf_iterations" in values) == (not row.dcrf)
        assert (values.get("method") == "grad_cam") == (not row.sf_cam)
        assert len(values["cam_layers"]) == len(row.models)
        assert not row.sf_cam or (values["layers"] == "both") == row.bla
    assert ROWS["r1"].overrides(PAIR)["cam_layers"] == [["layer4"], ["layer4"]]


# --- counting ------------------------------------------------------------------------------------------------------
@given(st.integers(0, 10_000), st.integers(0, 100))
def test_counts_are_those_of_thresholding(seed, index):
    rng = np.random.default_rng(seed)
    # Many scores lie exactly on a threshold: they are not above it.
    score = np.where(rng.random((3, 5, 6)) < 0.5, THRESHOLDS[rng.integers(0, 101, (3, 5, 6))], rng.random((3, 5, 6)))
    score, truth = score.astype(np.float32), rng.random((3, 5, 6)) > 0.7
    truth[1] = False
    counts = Counts.of_scan(score, truth, "a", 3)
    mask = score > THRESHOLDS[index]
    hit, union = (mask & truth).sum(), (mask | truth).sum()
    empty = (~mask & ~truth).sum() / (~mask | ~truth).sum() if (~mask | ~truth).any() else np.nan
    assert counts.iou(index) == pytest.approx((empty, hit / union))
    assert counts.true[:, index].tolist() == (mask & truth).sum(axis=(1, 2)).tolist()
    assert counts.false[:, index].tolist() == (mask & ~truth).sum(axis=(1, 2)).tolist()
    per_slice = [
        ((mask[i] & truth[i]).sum() / (mask[i] | truth[i]).sum()
         + (~mask[i] & ~truth[i]).sum() / (~mask[i] | ~truth[i]).sum()) / 2
        for i in (0, 2)
    ]  # fmt: skip
    assert counts.miou_per_slice(index) == pytest.approx(per_slice)


def test_thresholds_are_chosen_between_the_papers_bounds_and_by_the_folds_asked_for():
    truth = np.zeros((1, 10, 10), bool)
    truth[0, :5] = True
    parts = []
    for fold, edge in ((3, 0.305), (4, 0.555)):
        score = np.where(truth, edge + 0.01, edge - 0.01).astype(np.float32)
        parts.append(Counts.of_scan(score, truth, str(fold), fold))
    both = Counts.joined(parts)
    assert [both.of_folds([f]).best_threshold() for f in (3, 4)] == [30, 55]  # the lowest of equally good ones
    assert both.of_folds([0]).best_threshold() is None and not both.of_folds([0]).has_hemorrhage
    assert both.miou(100) == pytest.approx(0.25) and both.of_folds([3]).miou(30) == 1


# --- on phantoms ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(data):
    """Table 4 of the phantoms. One method stands for all the others: the comparison's tests train each of them."""
    assert set(RIVALS.values()) <= set(METHODS)
    datalist = str(data / "data" / "datalist.json")
    words = ["--datalist", datalist, "--benchmark", datalist, "--output", str(data / "study"), *SMALL]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("ichseg.experiments.rivals.RIVALS", dict.fromkeys(RIVALS, "psa"))
        assert main(["experiment", "table4", *words]) == 0
        yield data / "study", words


def test_table4(study, data):
    folder, _ = study
    table = rows(folder / "table4.csv")
    ours = [r for r in table if r["row"] in ROWS]
    assert {r["set"] for r in ours} == {"real", "implants"}
    for which in ("real", "implants"):
        assert {r["row"] for r in ours if r["set"] == which} == set(ROWS)
        for choice in ("oracle", "validation"):
            assert sum(r["set"] == which and r["choice"] == choice and r["sample"] == "all" for r in ours) == 8
    # Doing nothing scores (1 - share of hemorrhage) / 2.
    scans = load_datalist(data / "data" / "datalist.json")
    truth = np.concatenate([(read_mask(s["label"])[0] > 0).ravel() for s in scans])
    nothing = next(r for r in table if r["row"] == "all background" and r["sample"] == "all")
    assert float(nothing["miou"]) == pytest.approx((1 - truth.mean()) / 2)
    for r in ours:
        assert 0 <= float(r["foreground_iou"]) <= 1 and float(r["published_bcihm"]) > 50
        assert r["row"] == "r9" or float(r["threshold"]) == pytest.approx(min(max(float(r["threshold"]), 0.1), 0.7))
    best = {(r["row"], r["choice"]): float(r["miou"]) for r in ours if r["set"] == "real" and r["sample"] == "all"}
    assert all(best[row, "oracle"] >= best[row, "validation"] for row in list(ROWS)[:7])
    text = (folder / "table4.md").read_text()
    assert "phantom: " in text and "phantom (semi-synthetic)" in text
    assert "16 differences quoted in the paper agree" in text and "gate_by=label" in text and "slice AUC" in text
    assert Image.open(folder / "table4.png").width > 800


@pytest.mark.slow
def test_a_row_is_what_the_pseudo_mask_bundle_makes_with_its_switches(study, data):
    """The sweep never makes a mask; the bundle does, with the row's values, and scores the same to the last digit."""
    folder, words = study
    assert main(["experiment", "figure8", *words]) == 0
    line = next(
        r for r in rows(folder / "figure8.csv")
        if (r["set"], r["rule"]) == ("real", "AND") and float(r["threshold"]) == pytest.approx(0.1)
    )  # fmt: skip
    made = folder.parent / "and"
    pseudo = ["pseudo-label", "--datalist", words[1], "--classifiers", str(folder / "classifiers" / "64")]
    pseudo += ["--output", str(made), "--threshold", "0.1", "--device", "cpu"]
    for value in ("gate_by=label", "rule=and", "crf_iterations=0"):
        pseudo += ["--set", value]
    assert main(pseudo) == 0
    hit = union = missing = total = 0
    for scan in load_datalist(words[1]):
        t = read_mask(scan["label"])[0] > 0
        p = read_mask(made / f"{scan['case']}_pseudo.nii.gz")[0] > 0
        hit, union, missing, total = (
            hit + (t & p).sum(),
            union + (t | p).sum(),
            missing + (~t & ~p).sum(),
            total + t.size,
        )
    assert float(line["foreground_iou"]) == pytest.approx(hit / union) and hit > 0
    assert float(line["background_iou"]) == pytest.approx(missing / (total - hit))


def test_the_axes_that_a_true_mask_is_stored_with_do_not_matter(data, tmp_path, monkeypatch):
    scan = next(
        s for s in Study(data / "data" / "datalist.json", tmp_path).scans("real") if read_mask(s.label)[0].any()
    )
    truth, affine = read_mask(scan.label)
    turn = np.diag([-1.0, 1, 1, 1])
    turn[0, 3] = len(truth) - 1
    nib.save(nib.Nifti1Image(truth[::-1].astype(np.uint8), affine @ turn), tmp_path / "turned.nii.gz")

    def one_side(hounsfield, spacing):
        return np.indices(hounsfield.shape)[0] >= len(hounsfield) // 2

    monkeypatch.setattr("ichseg.experiments.counting.hu_rule", one_side)
    here, turned = (rule_of(replace(scan, label=label)) for label in (scan.label, str(tmp_path / "turned.nii.gz")))
    assert here.true[:, 0].sum() > 0
    for name, value in vars(here).items():
        np.testing.assert_array_equal(value, vars(turned)[name], name)


def test_gates_and_probabilities_follow_scans_stored_upside_down(study, data):
    folder, words = study
    for scan in load_datalist(words[1]):
        with np.load(folder / "counts" / "real" / "resnet34+resnet50_64" / "r5" / f"{scan['case']}.npz") as stored:
            assert stored["gated"].tolist() == [bool(v) for v in scan["slice_labels"]]
            assert ((stored["positive"] > 0) == stored["gated"]).all()
            assert not stored["true"][~stored["gated"]].any() and not stored["false"][~stored["gated"]].any()


def test_nothing_is_made_twice_and_other_settings_are_refused(study, capsys):
    folder, words = study
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.suffix in (".pt", ".npz", ".gz")}
    before = (folder / "table4.csv").read_bytes()
    (folder / "table4.csv").unlink()
    lost = next((folder / "counts" / "real" / "resnet34+resnet50_64" / "r7").glob("*.npz"))
    lost.unlink()  # as if interrupted: this one is made again, and nothing else
    assert main(["experiment", "table4", *words]) == 0
    assert (folder / "table4.csv").read_bytes() == before
    assert {p for p, t in stamps.items() if p.stat().st_mtime_ns != t} == {lost}
    datalist = folder.parent / "data" / "datalist.json"
    kept = datalist.read_text()
    datalist.write_text(kept.replace('"name": "phantom"', '"name": "other"'))
    try:
        assert main(["experiment", "table4", *words]) == 2
    finally:
        datalist.write_text(kept)
    assert ": made with datalist " in capsys.readouterr().err
    other = ["64" if w == "64" else w for w in words]
    other[other.index("--epochs") + 1] = "2"
    assert main(["experiment", "table4", *other]) == 2
    assert ": made with epochs 1, now 2; choose" in capsys.readouterr().err


def test_figures_share_the_maps_of_table4(study):
    folder, words = study
    maps = {p.name: p.stat().st_mtime_ns for p in (folder / "maps").iterdir()}
    for name in ("figure7", "figure8"):
        assert main(["experiment", name, *words]) == 0
        assert Image.open(folder / f"{name}.png").height > 400
    assert {p.name: p.stat().st_mtime_ns for p in (folder / "maps").iterdir()} == maps
    curve = [r for r in rows(folder / "figure8.csv") if r["set"] == "real"]
    assert len(curve) == 2 * 61
    line = next(
        r for r in rows(folder / "table4.csv")
        if (r["set"], r["row"], r["sample"], r["choice"]) == ("real", "r7", "all", "oracle")
    )  # fmt: skip
    same = next(
        r for r in curve if r["rule"] == "OR" and float(r["threshold"]) == pytest.approx(float(line["threshold"]))
    )
    assert float(same["miou"]) == pytest.approx(float(line["miou"]))
    assert float(line["miou"]) == pytest.approx(max(float(r["miou"]) for r in curve if r["rule"] == "OR"))
    boxes = rows(folder / "figure7.csv")
    ours, rivals = [f"r{n}" for n in range(1, 9)], list(RIVALS)
    assert {r["row"] for r in boxes if r["set"] == "real"} == {*ours, *rivals}
    assert {r["row"] for r in boxes if r["set"] == "implants"} == set(ours)
    slices = {row: [r["case"] for r in boxes if (r["set"], r["row"]) == ("real", row)] for row in (*ours, *rivals)}
    assert all(cases == slices["r1"] for cases in slices.values())
    mean = np.mean([float(r["miou"]) for r in boxes if r["set"] == "real" and r["row"] == "r8"])
    assert f"{mean:.3f}" in (folder / "figure7.md").read_text()


def test_table2(study):
    folder, words = study
    assert main(["experiment", "table2", *words]) == 0
    table = [r for r in rows(folder / "table2.csv") if r["method"].startswith("ours")]
    assert {r["method"] for r in table} == {"ours, pseudo-masks", "ours, U-Net"} and len(table) == 8
    for r in table:
        if r["CL"] != "nan":
            assert float(r["CL"]) + float(r["ML"]) == pytest.approx(1)
    assert table[0]["published_bcihm"] == "48.9 / 51.1 / 51.2"


def test_what_cannot_be_measured_is_said(study, data, tmp_path, capsys):
    content = json.loads((data / "data" / "datalist.json").read_text())
    for scan in content["training"]:
        del scan["label"]
        scan["image"] = str(data / "data" / scan["image"])
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    base = ["experiment", "table4", "--datalist", str(tmp_path / "datalist.json"), "--output", str(tmp_path / "out")]
    for words, told in (
        (base, "no scan has a mask"),
        ([*base, "--size", "100"], "size 100 must be a multiple of 32"),
        ([*base, "--size", "0"], "size 0 must be a multiple of 32"),
        ([*base, "--batch-size", "0"], "batch_size must be at least 1, not 0"),
        ([*base, "--device", "cuda:77"], "device 'cuda:77' is not available"),
        ([*base, "--val-folds", "2"], "fold 2 is used for both training and validation"),
        ([*base, "--test-folds", "7"], "no scan in fold 7 (test folds 7)"),
        ([*base, "--test-folds", "4-3"], "folds '4-3': the range 4-3 is reversed"),
        ([*base, "--set", "gates=1"], "'gates' is not a key of"),
        ([*base, "--set", "rule=and"], "--set rule: each table row sets this itself"),
        ([*base, "--benchmark", str(tmp_path / "no.json")], "no.json: no such file"),
    ):
        assert main(words) == 2
        assert told in capsys.readouterr().err
    masked = ["experiment", "table4", "--datalist", str(data / "data" / "datalist.json"), *base[4:]]
    trained = str(data / "study" / "classifiers" / "64")
    for words, told in (
        ([*masked, "--classifiers", str(tmp_path)], "no <backbone>/model.pt in this folder"),
        ([*masked, "--set", "gate_by=lable", "--classifiers", trained, "--size", "64"], "by must be one of prediction"),
    ):
        assert main(words) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_of_the_benchmark_that_were_rewritten_are_noticed(data, tmp_path):
    shutil.copytree(data / "data", tmp_path / "benchmark")
    given = {"benchmark": tmp_path / "benchmark" / "datalist.json"}
    Study(data / "data" / "datalist.json", tmp_path / "out", **given).claim()
    Study(data / "data" / "datalist.json", tmp_path / "out", **given)
    first, second, *_ = sorted((tmp_path / "benchmark" / "images").iterdir())
    first.write_bytes(second.read_bytes())
    with pytest.raises(IchsegError, match="a different benchmark_images; choose another output folder"):
        Study(data / "data" / "datalist.json", tmp_path / "out", **given)
