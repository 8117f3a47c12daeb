"""What a folder of scans will take."""

from __future__ import annotations

import gzip
import json
import logging

import pytest

from ichseg.cli import main
from ichseg.errors import IchsegError
from ichseg.folder import estimate as module
from ichseg.folder.estimate import estimate, estimate_text, reckoned


def test_arithmetic():
    found = reckoned(3600, scan_s=2.0, error_s=0.1, start_s=36.0, machines=10, price=0.5)
    assert found["machine_hours"] == pytest.approx(2.0 + 0.1)  # 7,200 s of scans, ten starts of 36 s
    assert (found["low"], found["high"]) == pytest.approx((1.8 + 0.1, 2.2 + 0.1))
    assert found["hours"] == pytest.approx(0.21) and found["cost"] == pytest.approx(1.05)


def test_a_folder(phantoms, tmp_path, capsys):
    scans = tmp_path / "scans"
    scans.mkdir()
    for path in sorted((phantoms / "images").glob("*.nii.gz"))[:3]:
        (scans / path.name).write_bytes(path.read_bytes())
    (scans / "broken.nii.gz").write_bytes(b"no scan")
    assert main(["estimate", str(scans), "--device", "cpu", "--sample", "4", "--machines", "2", "--price", "3",
                 "--set", "size=64", "--json"]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["scans"], found["sample"], found["failed"], found["machines"]) == (4, 4, 1, 2)
    assert (
        0 < found["low"] <= found["machine_hours"] <= found["high"] and found["start_s"] > 0.1 and found["spread_s"] > 0
    )
    assert found["hours"] == pytest.approx(found["machine_hours"] / 2, abs=1e-4)
    assert found["cost"] == pytest.approx(3 * found["machine_hours"], abs=1e-3)
    assert found["output_mib_per_scan"] > 0 and sorted(p.name for p in scans.iterdir())[0] == "broken.nii.gz"
    assert len(list(scans.iterdir())) == 4, "nothing is written beside the scans"
    told = logging.getLogger("ichseg.folder.runner").isEnabledFor(logging.INFO)
    assert told, "a later command in the same process still tells what it does"
    text = estimate_text(found)
    assert "4 scans" in text and "on 2 machines" in text and "cost at 3" in text


def test_settings_reach_the_run_as_they_were_given(phantoms, monkeypatch, capsys):
    seen = []

    def instead(_bundle, _config, values, _scans):
        seen.append(dict(values))
        raise IchsegError("enough seen")

    monkeypatch.setattr("ichseg.folder.estimate._run", instead)
    words = ["--set", "dicom_objects=null", "--set", "threshold=0.4", "--set", "precision=bf16"]
    assert main(["estimate", str(phantoms / "images"), "--precision", "fp32", *words]) == 2
    assert "enough seen" in capsys.readouterr().err
    assert (seen[0]["dicom_objects"], seen[0]["threshold"], seen[0]["precision"]) == (None, 0.4, "bf16")


def test_bad_files_do_not_spoil_what_is_known_of_the_others(phantoms, tmp_path, capsys, monkeypatch):
    """One scan that works, a copy of it that is refused, and broken files, the first of which is tried first."""
    scan = next((phantoms / "images").glob("*.nii.gz")).read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(scan)
    (tmp_path / "a.nii").write_bytes(gzip.decompress(scan))
    for number in range(3):
        (tmp_path / f"broken_{number}.nii.gz").write_bytes(b"no scan" * len(scan))
    runs, really = [], module._run
    monkeypatch.setattr(module, "_run", lambda *given: runs.append([s["case"] for s in given[3]]) or really(*given))
    found = estimate(tmp_path, {"device_name": "cpu", "size": 64}, sample=5, imported_s=100)
    assert [len(run) for run in runs] == [1, 1, 5] and runs[0] == ["broken_0"] and runs[1] == ["a"]
    assert (found["sample"], found["failed"]) == (5, 4) and found["spread_s"] is None and found["start_s"] >= 100
    assert "standard deviation" not in estimate_text(found)
    assert capsys.readouterr().out.count("broken_1.nii.gz") == 1


def test_what_cannot_be_estimated(tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"no scan")
    with pytest.raises(IchsegError, match="not a gzip file; none of 1 scans could be segmented"):
        estimate(tmp_path, {"device_name": "cpu", "size": 64})
    with pytest.raises(IchsegError, match="at least 1"):
        estimate(tmp_path, sample=0)
