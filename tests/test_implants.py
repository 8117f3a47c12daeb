"""Implants: exact masks, nothing changed elsewhere, and a benchmark that never mixes with real hemorrhage."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

import ichseg.synthetic.implants.implant as implants
import ichseg.synthetic.implants.implant_lesions as lesions
from ichseg.anatomy.brain import intracranial_mask
from ichseg.cli import main
from ichseg.data import SUBTYPES, load_datalist
from ichseg.data.packed import gray, hounsfield
from ichseg.errors import IchsegError
from ichseg.io import read_mask, read_volume
from ichseg.synthetic.implants import (
    LOOKALIKES,
    draw_lookalikes,
    draw_surgery,
    implant_hemorrhage,
    implant_volume,
    prepare_implants,
    surgery,
)
from ichseg.synthetic.implants.head_slices import HeadSlices
from ichseg.synthetic.implants.implant_looks import ImplantLook
from ichseg.synthetic.phantom import phantom_scan, prepare_phantom
from ichseg.transforms import RandImplantHemorrhaged

SPACING = (5.0, 1.8, 1.8)


@pytest.fixture(scope="module")
def head():
    scan = phantom_scan(5, (), size=128, slices=12)
    return np.moveaxis(scan.image, 2, 0).astype(np.float32), tuple(np.linalg.norm(scan.affine[:3, :3], axis=0))


@pytest.fixture(scope="module")
def healthy(head):
    return head[0][6]


@pytest.mark.parametrize("subtype", ["EDH", "IPH", "SAH", "SDH"])
def test_implants_change_their_mask_and_nothing_far_from_it(healthy, subtype, monkeypatch):
    monkeypatch.setattr(implants, "LEAST_PUSHING_MM", np.inf)
    made = [implant_hemorrhage(healthy, np.random.default_rng(seed), subtype) for seed in range(6)]
    made = [m for m in made if m is not None]
    assert made
    for image, mask, kind in made:
        assert kind == subtype and mask.shape == healthy.shape
        inside = ndimage.binary_dilation(intracranial_mask(healthy), iterations=2)
        assert (mask <= inside).all()
        assert np.abs(image - healthy)[mask].mean() > 2
        far = ~ndimage.binary_dilation(mask, iterations=20)
        np.testing.assert_allclose(image[far], healthy[far], atol=0.5)
    again = implant_hemorrhage(healthy, np.random.default_rng(0), subtype)
    first = implant_hemorrhage(healthy, np.random.default_rng(0), subtype)
    assert (again is None) == (first is None) and (again is None or np.array_equal(again[0], first[0]))


def test_no_room_no_implant():
    assert implant_hemorrhage(np.full((64, 64), -1000.0, np.float32), np.random.default_rng(0)) is None


@pytest.mark.parametrize("subtype", ["EDH", "IPH", "IVH", "SAH", "SDH"])
def test_volumes_get_one_lesion_through_several_slices(head, subtype, monkeypatch):
    monkeypatch.setattr(implants, "LEAST_PUSHING_MM", np.inf)
    hounsfield, (column, row, step) = head
    made = [implant_volume(hounsfield, (step, row, column), np.random.default_rng(s), subtype) for s in range(8)]
    made = [m for m in made if m is not None]
    assert made
    through, outside, inside = 0, 0, 0
    for image, mask, kind in made:
        assert kind == subtype and mask.shape == image.shape == hounsfield.shape
        touched = np.flatnonzero(mask.any(axis=(1, 2)))
        through = max(through, len(touched))
        assert (np.diff(touched) == 1).all() or subtype in ("IPH", "IVH", "SAH", "SDH")
        assert np.abs(image - hounsfield)[mask].mean() > 2
        assert hounsfield.min() <= image.min() and image.max() <= hounsfield.max()
        # What changed lies in the brain, and but for thin ends, less than half in the lesions, in and around the masks.
        changed = np.abs(image - hounsfield) > 3
        brain = np.stack([ndimage.binary_dilation(intracranial_mask(one), iterations=3) for one in hounsfield])
        assert not (changed & ~brain).any()
        outside += (changed & ~ndimage.binary_dilation(mask, iterations=8)).sum()
        inside += mask.sum()
    assert through > 1 and outside < 0.5 * inside


def test_lesions_fade_at_their_ends(head):
    hounsfield, (column, row, step) = head
    faint = 0
    for seed in range(24):
        made = implant_volume(hounsfield, (step, row, column), np.random.default_rng(seed), "IPH")
        if made is not None:
            image, mask, _ = made
            touched = mask.any(axis=(1, 2))
            brighter = (image - hounsfield > 2).any(axis=(1, 2))
            assert brighter[touched].all()
            faint += int((brighter & ~touched).sum())
    assert faint > 0  # partial volume: blood one sees a little of, but not half


def drawn(head, look, monkeypatch):
    """One ball of 16 mm in the middle of the brain with a look, as a scan, its mask, and the scan before."""
    hounsfield, (column, row, step) = head

    def ball(slices, middle, subtype, rng):
        body = lesions._Ellipsoid(slices.center(middle), 16.0, 1.0, 16.0, 0.0)
        return lesions.ImplantLesion(16.0, lambda index, z: slices.brain[index] & body.inside(slices, z, 0.0))

    monkeypatch.setattr(implants, "draw_lesion", ball)
    monkeypatch.setattr(implants, "draw_look", lambda *_: look)
    image, mask, _ = implant_volume(hounsfield, (step, row, column), np.random.default_rng(0), "IPH", back=(0, 1))
    return image, mask, hounsfield


@pytest.mark.parametrize(
    ("look", "low", "high"),
    [
        (ImplantLook(12.0, darkens=True, coarse=0.0), -45, -8),
        (ImplantLook(42.0, darkens=True, coarse=0.0), -3, 25),
        (ImplantLook(70.0, coarse=0.0), 20, 60),
        (ImplantLook(8.0, relative=True, coarse=0.0, blur=0.1), 3, 9),
    ],
)
def test_blood_of_every_age(head, look, low, high, monkeypatch):
    image, mask, before = drawn(head, look, monkeypatch)
    inside = ndimage.binary_erosion(mask, np.ones((1, 3, 3))) & (before > 20) & (before < 60)
    assert inside.sum() > 50
    assert low < float(np.median((image - before)[inside])) < high


def test_settled_blood_is_denser_at_the_back(head, monkeypatch):
    image, mask, _ = drawn(head, ImplantLook(10.0, darkens=True, lower=60.0, coarse=0.0), monkeypatch)
    inside = ndimage.binary_erosion(mask, np.ones((1, 3, 3)))
    columns = np.nonzero(inside)[2]
    back = columns > np.quantile(columns, 0.8)
    values = image[inside]
    assert np.median(values[back]) > np.median(values[columns < np.quantile(columns, 0.2)]) + 15


def test_slivers_are_thin(head):
    hounsfield, (column, row, step) = head
    slices = HeadSlices(hounsfield, pixel=(row + column) / 2, step=step)
    for seed in range(5):
        made = lesions._sliver(slices, 6, np.random.default_rng(seed)).inside(6, 0.0)
        assert not made.any() or slices.depth(6)[made].max() < 4.5 * 2


def test_settled_in_ventricles(head):
    hounsfield, (column, row, step) = head
    slices = HeadSlices(hounsfield, pixel=(row + column) / 2, step=step, back=(0, 1))
    fluid = np.zeros(hounsfield.shape[1:], bool)
    fluid[40:44, 50:70] = fluid[80:84, 45:60] = True
    found = lesions._sediment(slices, fluid, 5.0)
    for rows, last in ((slice(40, 44), 69), (slice(80, 84), 59)):
        columns = np.nonzero(found[rows].any(axis=0))[0]
        assert columns.max() == last and columns.min() == last - int(np.ceil(5 / slices.pixel)) + 1


def test_brain_gives_way_and_bone_does_not(head, monkeypatch):
    look = ImplantLook(70.0, coarse=0.0, push=1.0)
    moved, mask, before = drawn(head, look, monkeypatch)
    monkeypatch.setattr(implants, "LEAST_PUSHING_MM", np.inf)
    still, other, _ = drawn(head, look, monkeypatch)
    assert np.array_equal(mask, other)
    differs = np.abs(moved - still) > 1
    away = ndimage.distance_transform_edt(~mask.any(axis=0))
    brain = np.stack([intracranial_mask(one) for one in before])
    assert differs.any() and not (differs & ~brain).any()
    assert np.abs(moved - still)[:, away > 40].max() < np.abs(moved - still).max() / 4


def test_hemorrhage_that_is_there_does_not_give_way(head):
    """Its mask is known, and would no longer be right."""
    image, (column, row, step) = head
    first, mask, _ = implant_volume(image, (step, row, column), np.random.default_rng(32), "IPH")
    moved = []
    for kept in (None, mask):
        second, other, _ = implant_volume(first, (step, row, column), np.random.default_rng(132), "EDH", kept=kept)
        beside = mask & ~ndimage.binary_dilation(other, structure=np.ones((1, 3, 3)), iterations=2)
        moved.append((np.abs(second - first)[beside] > 5).sum())
    assert moved[0] > 20 and moved[1] == 0


@pytest.fixture
def operated(head, monkeypatch):
    """Makes one trace of an operation beside a hemorrhage on one side."""
    image, spacing = head
    mask = np.zeros(image.shape, bool)
    mask[6, 30:38, 60:68] = HeadSlices(image, spacing[1], spacing[0]).brain[6, 30:38, 60:68]

    def make(kind, seed=0, **settings):
        for name in ("CRANIOTOMY", "AIR", "DRAIN"):
            monkeypatch.setattr(surgery, name, float(name == kind))
        for name, value in settings.items():
            monkeypatch.setattr(surgery, name, value)
        return draw_surgery(image, mask, spacing, np.random.default_rng(seed), (0, 1))

    return image, spacing, mask, make


def test_scalp_swells_in_scans_that_were_clipped_too(operated, monkeypatch):
    image, spacing, mask, _ = operated
    for name, value in (("CRANIOTOMY", 1.0), ("AIR", 0.0), ("DRAIN", 0.0)):
        monkeypatch.setattr(surgery, name, value)
    packed = hounsfield(gray(image))  # as slices are packed: nothing below -20 HU
    made = [draw_surgery(packed, mask, spacing, np.random.default_rng(seed), (0, 1))[0] for seed in range(4)]
    swollen = [((one > 15) & (packed < -15)).sum() for one in made]
    assert max(swollen) > 100  # a swelling may be thinner than a pixel


@pytest.mark.parametrize("flap", [0.0, 1.0])
def test_bone_is_opened_above_the_hemorrhage_only(operated, flap):
    image, spacing, mask, make = operated
    made, left = make("CRANIOTOMY", FLAP=flap)
    opened = (image > surgery.BONE) & (made < surgery.BONE)
    assert np.array_equal(left, mask) and opened[6].any()
    assert (np.abs(np.flatnonzero(opened.any(axis=(1, 2))) - 6) * spacing[0]).max() < 40
    center = HeadSlices(image, spacing[1], spacing[0]).center(6)
    toward = np.array(ndimage.center_of_mass(mask[6])) * spacing[1] - center
    places = np.argwhere(opened[6]) * spacing[1] - center
    cosine = places @ toward / np.linalg.norm(places, axis=1) / np.linalg.norm(toward)
    assert cosine.min() > np.cos(1.3)
    if flap:  # the bone is back in place: only the gap is soft
        assert opened[6].sum() < 0.5 * (make("CRANIOTOMY", FLAP=0.0)[0][6] < image[6] - 50).sum()


def test_air_is_no_hemorrhage_and_lies_in_the_brain(operated):
    image, spacing, mask, make = operated
    brain = HeadSlices(image, spacing[1], spacing[0]).brain
    made, left = [], []
    for seed in range(6):
        one, rest = make("AIR", seed)
        air = one < -300
        assert (air & ~(image < -300)).sum() > 0 and (air & ~(image < -300) <= brain).all()
        assert not (rest & air).any() and (rest <= mask).all()
        made.append(one), left.append(rest)
    assert any(rest.sum() < mask.sum() for rest in left)


def test_a_drain_is_bright_thin_and_leads_to_the_skull(operated):
    image, spacing, _, make = operated
    made, _ = make("DRAIN", 3)
    tube = (made - image) > 30
    assert tube.any(axis=(1, 2)).sum() >= 2  # through several slices
    head = HeadSlices(image, spacing[1], spacing[0])
    depth = np.stack([np.where(head.brain[index], head.depth(index), 99.0) for index in range(len(image))])
    nearest = [depth[(make("DRAIN", seed)[0] - image) > 30].min() for seed in range(6)]
    assert sorted(nearest)[3] < 6  # others leave the scan at its end
    thickest = max(ndimage.distance_transform_edt(one).max() for one in tube) * spacing[1]
    assert thickest < 5


def test_surgery_keeps_the_range_and_needs_a_brain(operated):
    image, spacing, mask, make = operated
    for kind in ("CRANIOTOMY", "AIR", "DRAIN"):
        made, _ = make(kind)
        assert made.min() >= image.min() and made.max() <= image.max() and made.dtype == np.float32
    nothing = np.full_like(image, -1000)
    same, kept = draw_surgery(nothing, mask, spacing, np.random.default_rng(0), (0, 1))
    assert np.array_equal(same, nothing) and np.array_equal(kept, mask)


def test_benchmark(tmp_path, capsys):
    prepare_phantom(tmp_path / "data", scans=10, seed=3, size=96, slices=10)
    datalist = tmp_path / "data" / "datalist.json"
    content = json.loads(datalist.read_text())
    healthy = [scan for scan in content["training"] if not any(scan["slice_labels"])]
    folds = ",".join(sorted({str(scan["fold"]) for scan in healthy}))
    words = ["prepare", "implants", str(datalist), str(tmp_path / "implants"), "--folds", folds, "--per-scan", "3"]
    assert main(words) == 0 and "review them before use" in capsys.readouterr().out
    about = json.loads((tmp_path / "implants" / "datalist.json").read_text())
    assert about["semi_synthetic"] is True
    scans = load_datalist(tmp_path / "implants" / "datalist.json")
    assert 1 <= len(scans) <= 3 * len(healthy) and {s["patient"] for s in scans} <= {s["patient"] for s in healthy}
    source = {s["patient"]: s for s in load_datalist(datalist)}
    for scan in scans:
        mask, affine = read_mask(scan["label"])
        assert set(np.unique(mask)) == {0, {name: code for code, name in SUBTYPES.items()}[scan["implant"]]}
        assert scan["slice_labels"] == (mask > 0).any(axis=(0, 1)).astype(int).tolist() and any(scan["slice_labels"])
        assert scan["fold"] == source[scan["patient"]]["fold"]
        np.testing.assert_allclose(affine, read_volume(source[scan["patient"]]["image"]).affine, atol=1e-4)
    assert Image.open(tmp_path / "implants" / "montage.png").width > 500
    with pytest.raises(IchsegError, match="already exists"):
        prepare_implants(datalist, tmp_path / "implants", folds)
    content["training"] = [scan for scan in content["training"] if any(scan["slice_labels"])]
    (tmp_path / "data" / "bleeding.json").write_text(json.dumps(content))
    with pytest.raises(IchsegError, match="no scan without hemorrhage"):
        prepare_implants(tmp_path / "data" / "bleeding.json", tmp_path / "none", None)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", list(LOOKALIKES))
def test_lookalikes_brighten_the_brain_and_nothing_else(healthy, kind):
    brain = intracranial_mask(healthy)
    changed = []
    for seed in range(6):
        image = draw_lookalikes(healthy, np.random.default_rng(seed), [kind])
        assert image.shape == healthy.shape and image.dtype == np.float32
        assert np.array_equal(image[~brain], healthy[~brain]) and image.max() <= healthy.max()
        assert (image >= healthy - 1e-3).all()  # nothing gets darker
        changed.append(int((image > healthy + 5).sum()))
        assert np.array_equal(image, draw_lookalikes(healthy, np.random.default_rng(seed), [kind]))
    assert 0 < max(changed) < (0.4 if kind == "beam hardening" else 0.1) * brain.sum()


def test_the_falx_lies_on_the_midline_however_the_head_is_turned():
    scan = phantom_scan(5, (), size=128, slices=12)
    healthy = scan.image[:, :, 6].astype(np.float32)
    for quarter in (0, 1):  # axes may be stored either way
        head = np.rot90(healthy, quarter).copy()
        for seed in range(4):
            rows, columns = np.nonzero(draw_lookalikes(head, np.random.default_rng(seed), ["falx"]) > head + 6)
            center = ndimage.center_of_mass(intracranial_mask(head))
            # the first axis of the scan runs to the left: the falx has one place along it
            across = (rows - center[0], columns - center[1])[quarter]
            assert len(across) and np.abs(across).mean() < 6


def test_lookalikes_need_a_brain_and_a_known_kind(healthy):
    assert draw_lookalikes(np.full((64, 64), -1000.0, np.float32), np.random.default_rng(0)) is None
    assert draw_lookalikes(healthy, np.random.default_rng(0)) is not None
    with pytest.raises(ValueError, match="kind 'tumor' is unknown; choose from calcification, falx"):
        draw_lookalikes(healthy, np.random.default_rng(0), ["tumor"])


def test_lookalikes_change_no_label(healthy):
    window = torch.from_numpy(((healthy + 15) / 130).clip(0, 1))[None].float()
    draw = RandImplantHemorrhaged(prob=0, lookalike_prob=1, mask_key="mask").set_random_state(0)
    for label in (torch.tensor(0), torch.tensor(1)):
        item = draw({"image": window, "label": label})
        assert item["label"] == label and not torch.equal(item["image"], window)
        assert item["image"].min() >= 0 and item["image"].max() <= 1 and float(item["mask"].amax()) == -float(label)
    unknown = {"image": window, "label": torch.full_like(window, -1)}  # it bleeds nobody knows where: no implant
    item = RandImplantHemorrhaged(prob=1).set_random_state(0)(unknown)
    assert torch.equal(item["image"], window) and (item["label"] == -1).all()
    never = RandImplantHemorrhaged(prob=0).set_random_state(0)
    assert torch.equal(never({"image": window, "label": torch.tensor(0)})["image"], window)
