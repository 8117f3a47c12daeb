"""SIIM-ACR pneumothorax and PASCAL VOC: made-up releases of the real layouts become scans of one slice."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from ichseg.cli import main
from ichseg.data import load_datalist
from ichseg.data.siim import decoded

SIZE = (32, 24)  # columns, rows


def encoded(mask):
    """The release's run-length code of a (columns, rows) mask, written down from its description."""
    words, since, flat = [], 0, mask.ravel()
    at = 0
    while at < len(flat):
        if flat[at]:
            end = at
            while end < len(flat) and flat[end]:
                end += 1
            words += [at - since, end - at]
            since = at = end
        else:
            at += 1
    return " ".join(map(str, words))


@pytest.fixture
def siim(tmp_path):
    root = tmp_path / "siim"
    rows, masks = ["ImageId, EncodedPixels"], {}
    for number in range(6):
        name = f"1.2.276.{number}"
        file = root / "dicom-images-train" / f"study{number}" / "series" / f"{name}.dcm"
        file.parent.mkdir(parents=True)
        gray = (np.arange(SIZE[0])[:, None] * 5 + np.arange(SIZE[1])[None]).astype(np.uint8)
        image = SimpleITK.GetImageFromArray(gray.T[None])
        image.SetMetaData("0010|0020", f"patient{number // 2}")
        image.SetSpacing((0.1, 0.2, 1.0))
        SimpleITK.WriteImage(image, str(file))
        mask = np.zeros(SIZE, np.uint8)
        if number % 2:
            first, second = mask.copy(), mask.copy()
            first[3:6, 10:20], second[20:22, 2:5] = 1, 1
            rows += [f"{name},{encoded(first)}", f"{name}, {encoded(second)}"]
            mask = first | second
        else:
            rows.append(f"{name}, -1")
        masks[name] = mask
    (root / "train-rle.csv").write_text("\n".join(rows) + "\n")
    return root, masks


def voxels(file):
    return np.asarray(nibabel.load(file).dataobj)


def test_runs_count_from_the_end_of_the_last():
    mask = decoded([2, 3, 1, 2], (4, 3), "x")
    assert mask.ravel().tolist() == [0, 0, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
    assert encoded(mask) == "2 3 1 2"


def test_chest_x_rays_become_scans_of_one_slice(siim, tmp_path):
    root, masks = siim
    assert main(["prepare", "siim", str(root), str(tmp_path / "data")]) == 0
    scans = load_datalist(tmp_path / "data" / "datalist.json")
    assert len(scans) == 6 and len({scan["patient"] for scan in scans}) == 3
    for scan in scans:
        image, label = nibabel.load(scan["image"]), voxels(scan["label"])
        assert image.shape == (*SIZE, 1) and np.array_equal(label[..., 0], masks[scan["case"]])
        assert voxels(scan["image"])[3, 7, 0] == 3 * 5 + 7
        assert scan["slice_labels"] == [int(label.any())]
        assert np.allclose(image.header.get_zooms(), (0.1, 0.2, 1.0))


def test_other_x_ray_layouts_are_refused(siim, tmp_path, capsys):
    root, _ = siim
    table = root / "train-rle.csv"
    text = table.read_text()
    for wrong, said in (
        (text.replace("ImageId", "Image"), "line 1: the heading must be ImageId,EncodedPixels"),
        (text + "1.2.276.0,5\n", "expected an image and pairs of start and length"),
        (text + "1.2.276.9,-1\n", "no file 1.2.276.9.dcm"),
        (text + "1.2.276.0,700 100\n", "1.2.276.0: an outline reaches beyond the 32 x 24 pixels"),
    ):
        table.write_text(wrong)
        assert main(["prepare", "siim", str(root), str(tmp_path / "data")]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "data").exists()
    table.write_text("\n".join(text.splitlines()[:-2]) + "\n")
    assert main(["prepare", "siim", str(root), str(tmp_path / "data")]) == 0
    assert "1.2.276.5.dcm: no row in train-rle.csv; left out" in capsys.readouterr().err
    next(root.rglob("1.2.276.0.dcm")).write_bytes(b"no DICOM")
    assert main(["prepare", "siim", str(root), str(tmp_path / "other")]) == 2
    assert "not a DICOM image that can be read" in capsys.readouterr().err


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "download" / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    lines = []
    for number in range(6):
        name = f"2007_{number:06}"
        color = np.full((*SIZE[::-1], 3), 40 * number, np.uint8)
        Image.fromarray(color).save(root / "JPEGImages" / f"{name}.jpg")
        if number < 4:  # the others are not outlined
            codes = np.zeros(SIZE[::-1], np.uint8)
            codes[2:8, 3:9] = 15 if number % 2 else 7
            codes[8, 3:9] = 255
            picture = Image.fromarray(codes, mode="P")
            picture.putpalette([0] * 768)
            picture.save(root / "SegmentationClass" / f"{name}.png")
        lines.append(f"{name} {(' 1', '-1', ' 0')[(number + 1) % 2 if number != 5 else 2]}")
    (root / "ImageSets" / "Main" / "person_trainval.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "download"


def test_pictures_of_one_class(voc, tmp_path, capsys):
    assert main(["prepare", "voc2012", str(voc), str(tmp_path / "data"), "--class", "person"]) == 0
    scans = load_datalist(tmp_path / "data" / "datalist.json")
    assert [scan["slice_labels"][0] for scan in scans] == [0, 1, 0, 1, 0, 1]
    assert ["label" in scan for scan in scans] == [True] * 4 + [False] * 2
    for number, scan in enumerate(scans[:4]):
        mask = voxels(scan["label"])[..., 0]
        assert mask.shape == SIZE and mask.sum() == (36 if number % 2 else 0)
        assert abs(int(voxels(scan["image"]).mean()) - 40 * number) < 4
    main_file = voc / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "person_trainval.txt"
    assert main(["prepare", "voc2012", str(voc), str(tmp_path / "cat"), "--class", "cat"]) == 2
    assert "cat_trainval.txt: file not found" in capsys.readouterr().err
    main_file.write_text("2007_000000 2\n")
    assert main(["prepare", "voc2012", str(voc), str(tmp_path / "bad")]) == 2
    assert "line 1: expected a picture and -1, 0 or 1" in capsys.readouterr().err
    assert main(["prepare", "voc2012", str(tmp_path / "data"), str(tmp_path / "bad")]) == 2
    assert "no folder JPEGImages" in capsys.readouterr().err
    main_file.write_text("2007_000009 1\n")
    assert main(["prepare", "voc2012", str(voc), str(tmp_path / "bad")]) == 2
    assert "2007_000009.jpg: picture cannot be read" in capsys.readouterr().err
