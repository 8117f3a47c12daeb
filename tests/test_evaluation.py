"""Evaluation: every figure recomputed pixel by pixel, empty truth counted apart, truth from a datalist or a folder."""

from __future__ import annotations

import csv
import json
import math

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from ichseg.cli import main
from ichseg.data import load_datalist
from ichseg.errors import IchsegError
from ichseg.evaluation import COLUMNS, Tally, evaluate_masks, evaluate_slices, surface_agreement, true_scans
from ichseg.evaluation.volume_agreement import write_agreement
from ichseg.io import read_mask, write_volume
from ichseg.metrics import Calibration, limits_of_agreement

AFFINE = np.diag([-0.5, -0.5, 5.0, 1.0])


def rows(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def write(folder, name, mask, affine=AFFINE):
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), folder / f"{name}.nii.gz")


@pytest.fixture
def masks(tmp_path):
    """Four scans: random overlap; missed; false alarm on an empty one; empty and left alone."""
    rng = np.random.default_rng(0)
    truth = {n: np.zeros((20, 24, 4), bool) for n in ("a", "b", "c", "d")}
    found = {n: np.zeros((20, 24, 4), bool) for n in truth}
    truth["a"] = ndimage.binary_dilation(rng.random((20, 24, 4)) > 0.99, iterations=2)
    truth["a"][..., 0] = False
    found["a"] = np.roll(truth["a"], 2, 0) ^ (rng.random((20, 24, 4)) > 0.995)
    truth["b"][4:9, 4:9, 2] = True
    found["c"][0:3, 0:3, 1:3] = True
    for name in truth:
        write(tmp_path / "truth", f"{name}_mask", truth[name])
        write(tmp_path / "found", f"{name}_ich", found[name])
    return tmp_path, truth, found


def test_figures_recomputed_by_hand(masks):
    folder, truth, found = masks
    prediction, nothing = evaluate_masks(folder / "found", folder / "truth", folder / "out")
    t, p = np.stack(list(truth.values())), np.stack(list(found.values()))
    hit, union = (t & p).sum(), (t | p).sum()
    assert prediction["foreground_iou"] == pytest.approx(hit / union)
    background = (~t & ~p).sum() / (~t | ~p).sum()
    assert prediction["miou"] == pytest.approx((background + hit / union) / 2)
    assert nothing["miou"] == pytest.approx((1 - t.mean()) / 2) and nothing["foreground_iou"] == 0

    def fg(a, b):
        return (a & b).sum() / (a | b).sum()

    slices = [(t[n, ..., k], p[n, ..., k]) for n in range(4) for k in range(4) if t[n, ..., k].any()]
    assert prediction["foreground_iou_per_slice"] == pytest.approx(np.mean([fg(*s) for s in slices]))
    assert prediction["miou_per_slice"] == pytest.approx(
        np.mean([(fg(a, b) + (~a & ~b).sum() / (~a | ~b).sum()) / 2 for a, b in slices])
    )
    dices = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in slices]
    assert prediction["dice_positive_slices"] == pytest.approx(np.mean(dices))
    per_scan = [2 * (t[n] & p[n]).sum() / (t[n].sum() + p[n].sum()) for n in (0, 1)]
    assert prediction["dice_per_scan"] == pytest.approx(np.mean(per_scan))
    assert prediction["foreground_iou_per_scan"] == pytest.approx(np.mean([fg(t[n], p[n]) for n in (0, 1)]))

    true = hits = predicted = false = 0
    for n in range(4):
        for k in range(4):
            parts, count = ndimage.label(t[n, ..., k], np.ones((3, 3)))
            true += count
            hits += sum((p[n, ..., k] & (parts == c)).any() for c in range(1, count + 1))
            parts, count = ndimage.label(p[n, ..., k], np.ones((3, 3)))
            predicted += count
            false += sum(not (t[n, ..., k] & (parts == c)).any() for c in range(1, count + 1))
    assert (prediction["CL"], prediction["ML"]) == pytest.approx((hits / true, 1 - hits / true))
    assert prediction["FPL"] == pytest.approx(false / predicted)

    voxel_ml = 0.5 * 0.5 * 5 / 1000
    errors = [(p[n].sum() - t[n].sum()) * voxel_ml for n in range(4)]
    assert prediction["volume_bias_ml"] == pytest.approx(np.mean(errors))
    assert prediction["volume_error_ml"] == pytest.approx(np.mean(np.abs(errors)))

    assert prediction["slices"] == 16 and prediction["positive_slices"] == len(slices)
    empty = [(n, k) for n in range(4) for k in range(4) if not t[n, ..., k].any()]
    assert prediction["empty_slices_touched"] == pytest.approx(np.mean([p[n, ..., k].any() for n, k in empty]))
    assert prediction["scans"] == 4 and prediction["positive_scans"] == 2 and prediction["positive_scans_missed"] == 1
    assert prediction["positive_scans_without_overlap"] == 1 and nothing["positive_scans_without_overlap"] == 2
    assert prediction["empty_scans"] == 2 and prediction["empty_scans_touched"] == 0.5
    assert prediction["surface_dice"] == pytest.approx(
        surface_agreement(np.moveaxis(p[0], 2, 0), np.moveaxis(t[0], 2, 0), (5, 0.5, 0.5))["surface_dice"] / 2
    )  # the missed scan has surface Dice 0, and no Hausdorff distance
    assert math.isnan(nothing["hd95_mm"]) and prediction["hd95_mm"] > 0


def test_tables_and_json(masks, capsys):
    folder, _, _ = masks
    words = ["evaluate", str(folder / "found"), str(folder / "truth"), "--output", str(folder / "out")]
    assert main([*words, "--connectivity", "26"]) == 0
    assert "needs the scans; use --images" in capsys.readouterr().out
    table = rows(folder / "out" / "evaluation.csv")
    assert [r["method"] for r in table] == ["prediction", "all background"] and tuple(table[0]) == COLUMNS
    content = json.loads((folder / "out" / "evaluation.json").read_text())
    assert content["lesion_connectivity"] == 26 and content["methods"][1]["FPL"] is None
    per_scan = [r for r in rows(folder / "out" / "evaluation_scans.csv") if r["method"] == "prediction"]
    assert [r["case"] for r in per_scan] == ["a", "b", "c", "d"] and per_scan[3]["dice"] == "nan"
    for name in ("a", "b", "c", "d"):
        write(folder / "scans", name, np.full((20, 24, 4), 30))
    assert main([*words, "--images", str(folder / "scans"), "--cases", "a", "c"]) == 0
    assert "HU rule, no learning" in capsys.readouterr().out
    for words_, told in (
        ([str(folder / "found"), str(folder / "truth"), "--images", str(folder / "truth")], "no scan a.nii.gz"),
        ([str(folder / "found"), str(folder / "truth"), "--folds", "1"], "a folder of masks has no folds"),
        ([str(folder / "scans"), str(folder / "none")], "none: no such file or folder"),
        ([str(folder / "truth"), str(folder / "found"), "--cases", "z"], "no mask for case z"),
        ([str(folder / "truth"), str(folder / "found")], "no prediction for case a"),
        ([str(folder / "found"), str(folder / "truth"), "--tolerance-mm", "nan"], "--tolerance-mm must be a non-neg"),
    ):
        assert main(["evaluate", *words_]) == 2
        assert told in capsys.readouterr().err


def test_shapes_must_agree_and_other_affines_are_told(masks, caplog):
    folder, truth, _ = masks
    write(folder / "found", "b_ich", truth["b"], np.diag([-0.7, -0.5, 5.0, 1.0]))
    evaluate_masks(folder / "found", folder / "truth", folder / "out")
    assert "b_ich.nii.gz: affine differs from" in caplog.text
    line = next(r for r in rows(folder / "out" / "evaluation_scans.csv") if r["case"] == "b")
    assert float(line["true_ml"]) == pytest.approx(truth["b"].sum() * 0.5 * 0.5 * 5 / 1000)  # the truth's own spacing
    write(folder / "found", "b_ich", truth["b"][:10])
    with pytest.raises(IchsegError, match=r"b_ich\.nii\.gz: shape \(10, 24, 4\), but .*b_mask\.nii\.gz has \(20"):
        evaluate_masks(folder / "found", folder / "truth")


def test_a_mask_stored_with_turned_axes_is_the_same_mask(masks):
    folder, truth, _ = masks
    turned = np.moveaxis(truth["a"][::-1], 2, 0)
    affine = AFFINE.copy()
    affine[:, 0] *= -1
    affine[:, 3] += AFFINE[:, 0] * (truth["a"].shape[0] - 1)
    write(folder / "turned", "a_ich", turned, affine[:, [2, 0, 1, 3]])
    prediction = evaluate_masks(folder / "turned", folder / "truth", cases=["a"])[0]
    assert prediction["foreground_iou"] == 1 and prediction["hd95_mm"] == 0


def test_one_truth_per_case_and_no_case_is_lost(masks):
    folder, truth, _ = masks
    with pytest.raises(IchsegError, match="no mask for case phantom"):
        evaluate_masks(folder / "found", folder / "truth", cases=["a", "phantom"])
    write(folder / "truth", "a_seg", truth["a"])
    with pytest.raises(IchsegError, match=r"a_seg\.nii\.gz: the same case as .*a_mask"):
        evaluate_masks(folder / "found", folder / "truth")
    with pytest.raises(IchsegError, match="nowhere: no such folder"):
        evaluate_masks(folder / "nowhere", folder / "found")


def test_partly_annotated_scans_count_slices_only(phantoms, tmp_path):
    content = json.loads((phantoms / "datalist.json").read_text())
    scan = next(s for s in content["training"] if any(s["slice_labels"]))
    scan["label_slices"] = [i for i, v in enumerate(scan["slice_labels"]) if v][:1]
    for entry in content["training"]:
        for key in ("image", "label"):
            entry[key] = str(phantoms / entry[key])
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    for entry in load_datalist(tmp_path / "datalist.json"):
        mask, affine = read_mask(entry["label"])
        write(tmp_path / "found", f"{entry['case']}_pseudo", mask > 0, affine)
    prediction = evaluate_masks(tmp_path / "found", tmp_path / "datalist.json")[0]
    assert prediction["foreground_iou"] == 1 and prediction["surface_dice"] == 1 and prediction["hd95_mm"] == 0
    assert prediction["partly_annotated_scans"] == 1 and prediction["scans"] == len(content["training"]) - 1
    assert sum(s.slices is not None and len(s.slices) == 1 for s in true_scans(tmp_path / "datalist.json")) == 1


def test_surfaces():
    square, moved = np.zeros((2, 3, 12, 12), bool)
    square[1, 3:8, 3:8] = moved[1, 3:8, 5:10] = True
    close = surface_agreement(square, moved, (5, 1, 1), tolerance_mm=2.0)
    assert close["surface_dice"] == 1 and close["hd95_mm"] == pytest.approx(2)
    far = surface_agreement(square, moved, (5, 1, 3), tolerance_mm=2.0)
    assert far["surface_dice"] < 1 and far["hd95_mm"] == pytest.approx(6)
    nothing = np.zeros_like(square)
    assert math.isnan(surface_agreement(nothing, nothing, (1, 1, 1))["surface_dice"])
    missed = surface_agreement(nothing, square, (1, 1, 1))
    assert missed["surface_dice"] == 0 and math.isnan(missed["hd95_mm"])


def test_volumes_are_right_under_gantry_tilt(tmp_path):
    tilted = AFFINE.copy()
    tilted[1, 2] = 5 * np.tan(np.deg2rad(20))
    mask = np.zeros((20, 24, 4), bool)
    mask[:10] = True
    write(tmp_path / "truth", "a", mask, tilted)
    write(tmp_path / "found", "a_ich", mask[::-1], tilted)
    evaluate_masks(tmp_path / "found", tmp_path / "truth", tmp_path / "out")
    line = rows(tmp_path / "out" / "evaluation_scans.csv")[0]
    assert float(line["true_ml"]) == pytest.approx(mask.sum() * 0.5 * 0.5 * 5 / 1000)


def test_a_slice_full_of_blood_has_no_background_to_average_in():
    tally = Tally("x")
    tally.add("full", np.ones((1, 4, 4)), np.ones((1, 4, 4)), (1, 1, 1))
    assert tally.row()["miou_per_slice"] == 1


def test_a_tally_of_nothing_is_nan_not_zero():
    tally = Tally("x")
    tally.add("empty", np.zeros((2, 4, 4)), np.zeros((2, 4, 4)), (1, 1, 1))
    row = tally.row()
    for name in ("foreground_iou", "miou", "dice_per_scan", "CL", "FPL", "hd95_mm", "surface_dice", "miou_per_slice"):
        assert math.isnan(row[name]), name
    assert row["empty_slices"] == 2 and row["empty_slices_touched"] == 0 and row["volume_error_ml"] == 0


def test_limits_of_agreement_by_hand():
    found = limits_of_agreement([12.0, 9.0, 33.0, 5.0], [10.0, 10.0, 30.0, 5.0])
    difference = np.array([2.0, -1.0, 3.0, 0.0])
    spread = 1.96 * np.sqrt(((difference - 1) ** 2).sum() / 3)
    assert found == {"scans": 4, "bias": 1.0, "lower": pytest.approx(1 - spread), "upper": pytest.approx(1 + spread)}
    assert np.isnan(limits_of_agreement([], [])["bias"]) and np.isnan(limits_of_agreement([1], [2])["lower"])
    with pytest.raises(ValueError, match="2 measured values, but 1 true"):
        limits_of_agreement([1, 2], [1])


def test_calibration_by_hand():
    calibration = Calibration(bins=4)
    calibration.update(np.array([0.1, 0.1, 0.3]), np.array([0, 1, 0]))
    calibration.update(np.array([[0.9, 1.0, 0.8, 0.8]]), np.array([[1, 1, 0, 1]]))
    rows = calibration.rows()
    assert [row["voxels"] for row in rows] == [2, 1, 0, 4]
    assert [row["observed"] for row in rows][:2] == [0.5, 0] and np.isnan(rows[2]["observed"])
    assert rows[3]["probability"] == pytest.approx(0.875) and rows[3]["observed"] == 0.75
    assert calibration.error() == pytest.approx((0.3 * 1 + 0.125 * 4) / 5)
    assert calibration.error(skip=0) == pytest.approx((0.4 * 2 + 0.3 * 1 + 0.125 * 4) / 7)
    assert np.isnan(Calibration().error())
    with pytest.raises(ValueError, match="are not probabilities"):
        calibration.update(np.array([1.2]), np.array([1]))
    with pytest.raises(ValueError, match="shape"):
        calibration.update(np.array([1.0]), np.array([1, 0]))


def test_a_true_probability_is_calibrated():
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    calibration = Calibration()
    calibration.update(p, rng.random(p.shape) < p)
    assert calibration.error(skip=0) < 0.01
    calibration.update(p, rng.random(p.shape) < p**3)  # too sure
    assert calibration.error() > 0.05


def test_agreement_tells_empty_scans_from_those_of_unknown_size(tmp_path):
    rows = [(5.0, 4.0), (0.0, 0.0), (float("nan"), float("nan")), (2.0, 2.5)]
    write_agreement(tmp_path, [{"true_ml": true, "predicted_ml": found} for true, found in rows])
    told = json.loads((tmp_path / "agreement.json").read_text())
    assert (told["scans"], told["left_out_empty"], told["left_out_unknown_size"]) == (2, 1, 1)


def test_agreement_and_calibration_of_masks(masks):
    folder, truth, found = masks
    evaluate_masks(folder / "found", folder / "truth", folder / "out")
    told = json.loads((folder / "out" / "agreement.json").read_text())
    ml = abs(np.linalg.det(AFFINE[:3, :3])) / 1000
    difference = [(found[n].sum() - truth[n].sum()) * ml for n in "abc"]
    assert told["scans"] == 3 and told["left_out_empty"] == 1
    assert told["bias_ml"] == pytest.approx(np.mean(difference))
    assert told["upper_ml"] == pytest.approx(np.mean(difference) + 1.96 * np.std(difference, ddof=1))
    assert (folder / "out" / "agreement.png").stat().st_size > 5000
    assert not (folder / "out" / "calibration.csv").exists()
    probabilities = {n: np.where(found[n], 0.85, 0.15).astype(np.float32) for n in found}
    turned = AFFINE @ np.array([[-1, 0, 0, 19], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    for name, values in probabilities.items():  # stored mirrored: turned back like the masks
        path = folder / "found" / f"{name}_probability.nii.gz"
        nib.save(nib.Nifti1Image(values[::-1], turned), path)
    evaluate_masks(folder / "found", folder / "truth", folder / "out")
    lines = rows(folder / "out" / "calibration.csv")
    t, p = np.stack(list(truth.values())), np.stack(list(found.values()))
    assert int(lines[8]["voxels"]) == p.sum() and float(lines[8]["observed"]) == pytest.approx(t[p].mean())
    assert float(lines[1]["observed"]) == pytest.approx(t[~p].mean())
    assert (folder / "out" / "calibration.png").stat().st_size > 5000
    wrong = folder / "found" / "a_probability.nii.gz"
    nib.save(nib.Nifti1Image(probabilities["a"] * 2, AFFINE), wrong)
    with pytest.raises(IchsegError, match=r"a_probability.nii.gz: values from 0.3 to 1.7 are not probabilities"):
        evaluate_masks(folder / "found", folder / "truth")
    wrong.unlink()
    (folder / "out" / "calibration.csv").unlink()
    evaluate_masks(folder / "found", folder / "truth", folder / "out")
    assert not (folder / "out" / "calibration.csv").exists()  # of some scans it would mislead


# --- files that have lost their affine --------------------------------------------------------------------------------
SPACED = np.diag([-0.84, -0.84, 5.08, 1.0])
SPACED[:3, 3] = (100, 90, -40)


def lopsided():
    mask = np.zeros((32, 28, 6), np.uint8)
    mask[3:9, 4:8, 1:3] = 1
    return mask


@pytest.mark.parametrize(
    ("truth", "prediction"),
    [
        (np.eye(4), SPACED),
        (SPACED, np.eye(4)),
        (np.diag([-1.0, -1, 1, 1]), SPACED),
        (np.diag([0.84, 0.84, 5.08, 1]), SPACED),
    ],
    ids=["truth", "prediction", "itk", "spacing kept"],
)
def test_a_lost_affine_does_not_turn_the_masks(truth, prediction, tmp_path, caplog):
    for folder, affine, name in (("truth", truth, "a"), ("masks", prediction, "a_ich")):
        (tmp_path / folder).mkdir()
        write_volume(tmp_path / folder / f"{name}.nii.gz", lopsided(), affine)
    row = evaluate_masks(tmp_path / "masks", tmp_path / "truth", tmp_path / "out")[0]
    assert row["foreground_iou"] == 1 and "lost its affine" in caplog.text
    with (tmp_path / "out" / "evaluation_scans.csv").open() as stream:
        scan = next(csv.DictReader(stream))
    voxels = float(lopsided().sum())
    assert float(scan["true_ml"]) == pytest.approx(voxels * 0.84 * 0.84 * 5.08 / 1000)


def test_without_any_affine_there_are_no_milliliters(tmp_path, caplog):
    for folder, name in (("truth", "a"), ("masks", "a_ich")):
        (tmp_path / folder).mkdir()
        write_volume(tmp_path / folder / f"{name}.nii.gz", lopsided(), np.eye(4))
    row = evaluate_masks(tmp_path / "masks", tmp_path / "truth", tmp_path / "out")[0]
    assert row["foreground_iou"] == 1 and "no milliliters" in caplog.text
    assert math.isnan(row["hd95_mm"]) and math.isnan(row["volume_error_ml"])


def test_axes_that_are_turned_in_space_are_turned_back_and_others_refused(tmp_path):
    (tmp_path / "truth").mkdir()
    (tmp_path / "masks").mkdir()
    write_volume(tmp_path / "truth" / "a.nii.gz", lopsided(), SPACED)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(lopsided(), SPACED))
    write_volume(tmp_path / "masks" / "a_ich.nii.gz", np.asarray(canonical.dataobj), canonical.affine)
    assert evaluate_masks(tmp_path / "masks", tmp_path / "truth")[0]["foreground_iou"] == 1
    elsewhere = canonical.affine.copy()
    elsewhere[:3, 3] += 40
    write_volume(tmp_path / "masks" / "a_ich.nii.gz", np.asarray(canonical.dataobj), elsewhere)
    with pytest.raises(IchsegError, match="oriented differently from"):
        evaluate_masks(tmp_path / "masks", tmp_path / "truth")


def test_missing_predictions_are_named_before_work_begins(tmp_path):
    (tmp_path / "truth").mkdir()
    (tmp_path / "masks").mkdir()
    for name in "abcd":
        write_volume(tmp_path / "truth" / f"{name}.nii.gz", lopsided(), SPACED)
    for name in "ac":
        write_volume(tmp_path / "masks" / f"{name}_ich.nii.gz", lopsided(), SPACED)
    with pytest.raises(
        IchsegError, match=r"for 2 of 4 scans, such as b; to evaluate the others alone, add --cases a c$"
    ):
        evaluate_masks(tmp_path / "masks", tmp_path / "truth")
    assert evaluate_masks(tmp_path / "masks", tmp_path / "truth", cases=["a", "c"])[0]["scans"] == 2


def test_slice_labels_are_compared_in_the_order_of_the_scan(phantoms, tmp_path):
    """A mask stored upside down, in the same place of space, is the same mask."""
    results = []
    for flip in (False, True):
        folder = tmp_path / str(flip)
        folder.mkdir()
        for scan in load_datalist(phantoms / "datalist.json"):
            mask, affine = read_mask(scan["label"])
            if flip:
                turned = affine @ np.diag([1, 1, -1, 1])
                turned[:3, 3] += affine[:3, 2] * (mask.shape[2] - 1)
                mask, affine = mask[..., ::-1], turned
            write_volume(folder / f"{scan['case']}_ich.nii.gz", np.ascontiguousarray(mask > 0).astype(np.uint8), affine)
        results.append(evaluate_slices(folder, phantoms / "datalist.json"))
    assert results[0] == results[1] and results[0]["positive_slices_touched"] == 1


@pytest.mark.parametrize("how", ["flipped", "upside down", "turned"])
def test_truth_is_laid_on_the_scan(how, tmp_path):
    """However the truth is stored, if it is right in space: scan, prediction and slices stay together."""
    from ichseg.synthetic.phantom import phantom_scan

    made = phantom_scan(seed=2, size=64, slices=10)
    image, truth = nib.Nifti1Image(made.image, made.affine), (made.label > 0).astype(np.uint8)
    code = {"flipped": "RPS", "upside down": "LPI", "turned": "SLP"}[how]
    turn = nib.orientations.ornt_transform(nib.io_orientation(made.affine), nib.orientations.axcodes2ornt(code))
    stored = nib.Nifti1Image(truth, made.affine).as_reoriented(turn)
    rows_ = []
    for affine, array in ((made.affine, truth), (stored.affine, np.asarray(stored.dataobj))):
        folder = tmp_path / str(len(rows_))
        for name, data, where in (("truth/a", array, affine), ("masks/a_ich", truth, made.affine)):
            (folder / name).parent.mkdir(parents=True)
            write_volume(folder / f"{name}.nii.gz", data, where)
        (folder / "scans").mkdir()
        nib.save(image, folder / "scans" / "a.nii.gz")
        rows_.append(evaluate_masks(folder / "masks", folder / "truth", images=folder / "scans"))
    first, second = [[{k: v for k, v in row.items() if v == v} for row in found] for found in rows_]
    assert len(first) == 3 and first[0]["foreground_iou"] == 1
    for one, other in zip(first, second, strict=True):
        assert one.pop("method") == other.pop("method") and one == pytest.approx(other)


def test_corrected_masks_are_truth_whoever_began_them(tmp_path):
    for folder, name in (("truth", "a"), ("truth", "b_ich"), ("masks", "a_ich"), ("masks", "b_ich")):
        (tmp_path / folder).mkdir(exist_ok=True)
        write_volume(tmp_path / folder / f"{name}.nii.gz", lopsided(), SPACED, "ichseg")
    assert evaluate_masks(tmp_path / "masks", tmp_path / "truth")[0]["scans"] == 2


def test_one_odd_voxel_size_is_outvoted(tmp_path, caplog):
    odd = SPACED @ np.diag([0.5, 0.5, 0.5, 1])
    for folder, name, affine in (("truth", "a", odd), ("masks", "a_ich", SPACED), ("scans", "a", SPACED)):
        (tmp_path / folder).mkdir()
        write_volume(tmp_path / folder / f"{name}.nii.gz", lopsided(), affine)
    evaluate_masks(tmp_path / "masks", tmp_path / "truth", tmp_path / "out", images=tmp_path / "scans")
    with (tmp_path / "out" / "evaluation_scans.csv").open() as stream:
        scan = next(csv.DictReader(stream))
    assert float(scan["true_ml"]) == pytest.approx(lopsided().sum() * 0.84 * 0.84 * 5.08 / 1000)
    assert "voxel sizes differ" in caplog.text


def test_files_without_orientation_codes_are_compared_as_stored(tmp_path, caplog):
    for folder, name, code in (("truth", "a", 0), ("masks", "a_ich", 1)):
        (tmp_path / folder).mkdir()
        image = nib.Nifti1Image(lopsided(), SPACED)
        image.set_sform(SPACED, code)
        image.set_qform(SPACED, code)
        nib.save(image, tmp_path / folder / f"{name}.nii.gz")
    row = evaluate_masks(tmp_path / "masks", tmp_path / "truth")[0]
    assert row["foreground_iou"] == 1 and "lost its affine" in caplog.text


def test_a_place_that_was_guessed_turns_nothing(tmp_path):
    """Without a code nibabel guesses the axes; that the guess fills the same space, mirrored, is no knowledge."""
    image = nib.Nifti1Image(lopsided(), None)
    image.header.set_zooms((0.84, 0.84, 5.08))
    guessed = image.header.get_base_affine()
    mirrored = guessed @ np.diag([-1, 1, 1, 1])
    mirrored[:3, 3] += guessed[:3, 0] * (lopsided().shape[0] - 1)
    for folder in ("truth", "masks"):
        (tmp_path / folder).mkdir()
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "masks" / "a_ich.nii.gz")
    write_volume(tmp_path / "truth" / "a.nii.gz", lopsided(), mirrored)
    assert evaluate_masks(tmp_path / "masks", tmp_path / "truth")[0]["foreground_iou"] == 1
