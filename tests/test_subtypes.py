"""Hemorrhage subtypes as a second head: read from the table, drawn with implants, learned, told."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from ichseg.bundle import BundleParts
from ichseg.cli import main
from ichseg.data import SUBTYPES, load_datalist, pack_scans, pack_subtypes
from ichseg.data.datalist import read_slice_table
from ichseg.data.packed_subtypes import bits_of, of_bits
from ichseg.data.subtypes import SUBTYPE_ORDER
from ichseg.folder.results import _cell
from ichseg.networks import SegmenterSettings, context_network, read_settings
from ichseg.synthetic.implants import implant_pool
from ichseg.synthetic.phantom import prepare_phantom
from ichseg.training import ContextLoss, SliceMixture
from ichseg.transforms import SliceScoredProbability, SliceScoredProbabilityd

SIZE = 64


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typed")
    prepare_phantom(folder / "data", scans=10, seed=2, size=96, slices=8)
    return folder / "data" / "datalist.json"


@pytest.fixture(scope="module")
def packed(cohort):
    return pack_scans(
        load_datalist(cohort),
        BundleParts("ich_segmentation", "train_recommended.yaml", {"size": SIZE})["preprocessing"],
    )


def test_subtypes_stand_in_the_order_of_their_codes():
    assert SUBTYPE_ORDER == ("EDH", "IPH", "IVH", "SAH", "SDH") == tuple(SUBTYPES[code] for code in sorted(SUBTYPES))
    for subtypes in ([], ["EDH"], ["SDH", "IPH", "IPH"]):
        assert {SUBTYPE_ORDER[place] for place in np.flatnonzero(of_bits(bits_of(subtypes)))} == set(subtypes)


def test_subtypes_of_slices_are_those_of_the_table(packed, cohort, tmp_path, caplog):
    subtypes, table = pack_subtypes(packed, cohort), read_slice_table(cohort.parent)
    assert subtypes.shape == (len(packed), 5) and not subtypes[packed.labels == 0].any()
    seen = 0
    for number, case in enumerate(packed.cases):
        where = packed.scan(number)
        for index in range(where.start, where.stop):
            row = table[case, int(packed.stored[index])]
            assert subtypes[index].tolist() == [int(row[name] or 0) for name in SUBTYPE_ORDER]
            seen += int(subtypes[index].sum())
    assert seen >= packed.labels.sum() > 0
    assert pack_subtypes(packed, cohort, enabled=False) is None
    with caplog.at_level("WARNING"):
        none = pack_subtypes(packed, tmp_path / "datalist.json")
    assert (none[packed.labels > 0] == -1).all() and "subtypes are learned from implants only" in caplog.text


def test_a_positive_slice_of_no_type_is_not_known(packed, cohort, tmp_path):
    rows = list(csv.DictReader((cohort.parent / "slice_labels.csv").open()))
    first = next(row for row in rows if row["hemorrhage"] == "1")
    first.update(dict.fromkeys(SUBTYPE_ORDER, "0"))
    second = [row for row in rows if row["hemorrhage"] == "1"][1]
    second.update({"EDH": "1", "SAH": ""})  # told apart: not there, and not told
    with (tmp_path / "slice_labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader(), writer.writerows(rows)
    subtypes = pack_subtypes(packed, tmp_path / "datalist.json")
    where = packed.scan(packed.cases.index(first["case"]))
    unknown = where.start + int(np.flatnonzero(packed.stored[where] == int(first["slice_index"]))[0])
    assert (subtypes[unknown] == -1).all() and (subtypes < 0).sum() == 5 + 1


def test_implants_know_their_subtypes(packed, tmp_path):
    pool = implant_pool(packed, per_scan=3, seed=1, folder=tmp_path)
    found = np.stack([pool.subtypes(place) for place in range(len(pool))])
    assert (
        set(found.ravel().tolist()) == {0, 1} and (found.sum(axis=1) >= 1).all() and (found.sum(axis=0) > 0).sum() > 2
    )
    again = implant_pool(packed, per_scan=3, seed=1, folder=tmp_path)
    assert all(np.array_equal(again.subtypes(place), found[place]) for place in range(len(pool)))
    torch.manual_seed(0)
    batch = next(iter(SliceMixture(packed, pool, 8, 1, 0.25, 0.375, subtypes=pack_subtypes_of(packed))))
    assert batch["subtypes"].shape == (8, 5) and not batch["subtypes"][2:5].any() and batch["subtypes"][:2].sum() >= 2
    assert (batch["subtypes"][5:, 4] == 1).all()
    assert "subtypes" not in next(iter(SliceMixture(packed, pool, 8, 1, 0.25, 0.375)))


def pack_subtypes_of(packed):
    subtypes = np.zeros((len(packed), 5), np.int8)
    subtypes[packed.labels > 0, 4] = 1
    return subtypes


@pytest.mark.parametrize("architecture", ["context", "lite"])
def test_networks_score_subtypes_beside_the_rest(architecture):
    torch.manual_seed(0)
    network = context_network(architecture, subtype_head=True).eval()
    with torch.no_grad():
        logits = network(torch.rand(2, 3, 64, 64))
    assert logits.shape == (2, 8, 64, 64) and (logits[:, 3:] == logits[:, 3:, :1, :1]).all()
    assert not torch.equal(logits[0, 3:, 0, 0], logits[1, 3:, 0, 0])
    torch.jit.script(network)


def test_subtypes_that_are_not_known_teach_nothing():
    loss = ContextLoss(cross_entropy=0, dice=0, instances=0, score=0, subtypes=2.0)
    logits = torch.zeros(2, 8, 8, 8)
    target = {"mask": torch.zeros(2, 1, 8, 8), "label": torch.tensor([1.0, 0.0])}
    known = torch.tensor([[1, 0, 0, 0, 1], [-1, -1, -1, -1, -1]])
    assert loss(logits, target) == 0
    assert float(loss(logits, {**target, "subtypes": known})) == pytest.approx(2 * np.log(2))
    logits[1, 3:] = 50.0
    assert float(loss(logits, {**target, "subtypes": known})) == pytest.approx(2 * np.log(2))
    logits[0, 3:] = torch.tensor([9.0, -9, -9, -9, 9])[:, None, None]
    assert float(loss(logits, {**target, "subtypes": known})) < 0.001


def test_a_scan_is_told_its_likely_types():
    logits = torch.full((8, 16, 16, 4), -4.0)
    logits[0] = 0
    logits[1:3, ..., 2] = 4.0  # one slice bleeds
    logits[3 + SUBTYPE_ORDER.index("SDH"), ..., 2], logits[3 + SUBTYPE_ORDER.index("IPH"), ..., 2] = 3.0, 1.0
    logits[3 + SUBTYPE_ORDER.index("EDH"), ..., 0] = 9.0  # of a slice that does not
    made = SliceScoredProbabilityd("pred", weight=0.0, patient_slope=1.0)({"pred": logits})
    assert list(made["subtypes"].items()) == [("SDH", 0.935), ("IPH", 0.718)] and made["pred"].shape == (1, 16, 16, 4)
    assert "subtypes" not in SliceScoredProbabilityd("pred", patient_slope=1.0)({"pred": logits[:3]})
    assert torch.equal(SliceScoredProbability()(logits), SliceScoredProbability()(logits[:3]))
    with pytest.raises(ValueError, match="5 subtypes, not 5 channels"):
        SliceScoredProbability()(logits[:5])


@pytest.mark.slow
def test_from_training_to_the_table(cohort, tmp_path):
    settings = ("steps_per_epoch=4", "implants_per_scan=2", "channels=[4, 8, 8, 8]", "num_workers=0",
                "surgery_share=0.5", "subtype_weight=0.3")  # fmt: skip
    out = tmp_path / "run"
    words = ["train", "--datalist", str(cohort), "--output", str(out), "--size", str(SIZE), "--epochs", "2"]
    assert main([*words, "--batch-size", "8", "--device", "cpu", *(f"--set={one}" for one in settings)]) == 0
    assert read_settings(out / "model.pt", SegmenterSettings).subtype_head
    rows = [json.loads(line) for line in (out / "masks" / "results.jsonl").read_text().splitlines()]
    assert rows and all(isinstance(row["subtypes"], dict) and row["probability"] for row in rows)
    assert _cell({"SDH": 0.935, "IPH": 0.718}) == "SDH 0.94, IPH 0.72" and _cell({}) == ""
