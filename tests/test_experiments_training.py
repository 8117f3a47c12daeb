"""The tables that train classifiers of several kinds and sizes."""

from __future__ import annotations

import pytest
from experiment_data import SMALL, data, rows  # noqa: F401  # 'data' is a fixture

from ichseg.cli import main
from ichseg.experiments.rivals import RIVALS


@pytest.mark.slow
def test_tables_that_train_many_classifiers(data, capsys, monkeypatch):
    # One method stands for all: the comparison's tests train each of them.
    monkeypatch.setattr("ichseg.experiments.rivals.RIVALS", dict.fromkeys(RIVALS, "psa"))
    datalist = str(data / "data" / "datalist.json")
    words = ["--datalist", datalist, "--output", str(data / "many"), *SMALL]
    assert main(["experiment", "table3", *words]) == 0
    sizes = {r["method"].split(",")[0] for r in rows(data / "many" / "table3.csv")}
    assert {"96 x 96", "64 x 64", "32 x 32"} <= sizes
    assert main(["experiment", "table1", *words]) == 0
    table = {(r["method"], r["choice"]): r for r in rows(data / "many" / "table1.csv")}
    for pair in ("ResNet34+50", "DenseNet121+169", "VGG16+19"):
        assert 0 <= float(table[pair, "validation"]["miou"]) <= 1
    for rival in RIVALS:
        assert 0 <= float(table[rival, ""]["miou"]) <= 1 and not table[rival, ""]["note"]
    assert float(table["U-Net, full supervision", ""]["miou"]) > 0
    given = ["--classifiers", str(data / "many" / "classifiers" / "64")]
    other = [str(data / "given") if w == str(data / "many") else w for w in words]
    assert main(["experiment", "table3", *other, *given]) == 2
    assert "omit --classifiers" in capsys.readouterr().err
