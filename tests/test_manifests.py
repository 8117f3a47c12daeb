"""Data manifests follow their schema and say what is true."""

from __future__ import annotations

import csv
import json
from collections import Counter
from configparser import ConfigParser
from pathlib import Path

import jsonschema
import pytest

from ichseg.bundle import resource_folder
from ichseg.data import load_manifest, manifest_names
from ichseg.errors import IchsegError


def test_every_data_set_has_a_manifest():
    assert manifest_names() == ["bcihm", "bhsd", "cq500", "instance2022", "mbhseg2025", "phantom", "rsna2019"]


@pytest.mark.parametrize("name", manifest_names())
def test_manifest_follows_the_schema(name):
    schema = json.loads((resource_folder("data_manifests") / "schema.json").read_text())
    manifest = load_manifest(name)
    jsonschema.Draft202012Validator(schema).validate(manifest)
    assert manifest["name"] == name


def test_bcihm_folds_are_complete_and_even():
    manifest = load_manifest("bcihm")
    folds = manifest["folds"]["patients"]
    assert len(folds) == manifest["counts"]["patients"] and set(folds.values()) == set(range(5))
    assert max(Counter(folds.values()).values()) - min(Counter(folds.values()).values()) <= 1


@pytest.mark.real
def test_bcihm_folds_and_counts_are_the_data_sets_own(real_bcihm):
    manifest = load_manifest("bcihm")
    rows = list(csv.DictReader((real_bcihm / "folds.csv").open()))
    assert manifest["folds"]["patients"] == {r["patient"]: int(r["fold"]) for r in rows}
    table = list(csv.DictReader((real_bcihm / "hemorrhage_diagnosis.csv").open(encoding="utf-8-sig")))
    subtypes = {
        "EDH": "Epidural",
        "IPH": "Intraparenchymal",
        "IVH": "Intraventricular",
        "SAH": "Subarachnoid",
        "SDH": "Subdural",
    }
    counted = {short: sum(int(r[name]) for r in table) for short, name in subtypes.items()}
    assert manifest["counts"]["positive_slices_by_subtype"] == counted


def test_unknown_data_set_is_refused():
    with pytest.raises(IchsegError, match="available: bcihm"):
        load_manifest("nothing")


def test_every_package_is_installed():
    """setup.cfg lists packages by hand: the bundles and manifests stand outside of ichseg/."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "setup.cfg").is_file():
        pytest.skip("runs in a checkout")
    setup = ConfigParser()
    setup.read(root / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    there = {".".join(file.relative_to(root).parent.parts) for file in (root / "ichseg").rglob("__init__.py")}
    assert listed == there | {"ichseg.bundles", "ichseg.data_manifests"}
