"""Whatever a folder may hold is told apart: unusable, doubtful, good."""

from __future__ import annotations

import csv
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from broken_files import CASES, DIM, good, make, patched
from conftest import as_usual
from hypothesis import given, settings
from hypothesis import strategies as st

from ichseg.cli import main
from ichseg.errors import ScanError
from ichseg.io import read_volume, scan_name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.file)
def test_each_is_what_it_is(case, tmp_path):
    path = tmp_path / case.file
    case.make(path)
    if case.outcome in ("failed", "skipped"):
        with pytest.raises(ScanError) as told:
            read_volume(path)
        message = str(told.value)
        assert message.startswith(f"{path}: ") and "\n" not in message and re.search(case.said, message)
        return
    flags = "; ".join(read_volume(path).flags)
    assert re.search(case.said, flags) if case.outcome == "flagged" else not flags


LIMITED = """
import resource, sys
from ichseg.errors import ScanError
from ichseg.io import read_volume
limit = {mib} * 2**20
import os
held = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (held + limit, held + limit))
for path in sys.argv[1:]:
    try:
        read_volume(path, size_limit={limit})
        print("read")
    except ScanError as error:
        print("refused", error)
"""


def limited(paths, mib=400, limit=2**31):
    """What becomes of files in a process that may take only so much more memory."""
    code = LIMITED.format(mib=mib, limit=limit)
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited the Linux way")
def test_bombs_take_no_memory(tmp_path):
    small, big = tmp_path / "bomb.nii.gz", tmp_path / "declared.nii"
    header = patched((DIM + 2, "hhh", (1024, 1024, 1400)))[:352]
    with gzip.open(small, "wb", 1) as packed:
        packed.write(header)
        for _ in range(2800):
            packed.write(bytes(2**20))
    big.write_bytes(patched((DIM + 2, "hhh", (2000, 2000, 2000))))
    trailing = tmp_path / "trailing.nii.gz"
    with gzip.open(trailing, "wb", 1) as packed:
        packed.write(good())
        for _ in range(700):
            packed.write(bytes(2**20))
    one, two, three, four = [*limited([small, big]), *limited([trailing, small], limit=2**29)]
    assert "GiB of voxels exceed the limit of 2.0 GiB" in one and "cannot hold them" in two
    assert "0.5 GiB of data after the voxels" in three and "exceed the limit of 0.5 GiB" in four


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited the Linux way")
def test_any_bytes_are_read_or_refused(tmp_path):
    """Headers, lengths and packed bytes at random, in a process with little memory."""
    rng, paths = np.random.default_rng(0), []
    for number in range(300):
        data, kind = bytearray(good()), number % 3
        if kind < 2:
            for _ in range(rng.integers(1, 6)):
                data[rng.integers(0, 352)] = rng.integers(0, 256)
        path = tmp_path / f"{number}.nii{'.gz' if kind else ''}"
        if kind == 0:
            data = data[: rng.integers(0, len(data))] if rng.random() < 0.3 else data
        else:
            data = bytearray(gzip.compress(bytes(data), 1, mtime=0))
            if kind == 2:
                data[rng.integers(0, len(data))] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(data))
        paths.append(path)
    told = limited(paths)
    assert len(told) == len(paths)
    assert 20 < sum(line == "read" for line in told) < 250
    for line, path in zip(told, paths, strict=True):
        assert line == "read" or line.startswith(f"refused {path}: ")


@given(st.binary(min_size=0, max_size=900), st.booleans())
@settings(max_examples=60)
def test_random_bytes_are_refused(tmp_path_factory, data, packed):
    path = tmp_path_factory.mktemp("random") / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(ScanError):
        read_volume(path)


def test_a_folder_of_them_all_is_worked_through(tmp_path, capsys, monkeypatch):
    """Every file has its row: what can be done is done, what cannot is named, and the exit code says so."""
    as_usual(monkeypatch)
    scans, out = tmp_path / "scans", tmp_path / "masks"
    cases = {case.file: case for case in make(scans)}
    (scans / "loop").symlink_to(scans, target_is_directory=True)
    (scans / "._01_hidden.nii.gz").write_bytes(b"apple double")
    assert main(["segment", str(scans), str(out), "--size", "64", "--device", "cpu"]) == 1
    with (out / "results.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    told = [json.loads(line) for line in (out / "results.jsonl").read_text("utf-8").splitlines()]
    assert sorted(Path(row["file"]).name for row in told) == sorted(cases)
    for row, line in zip(rows, told, strict=True):
        case = cases[Path(line["file"]).name]
        # Two files of one name, plain and packed: the second is refused, whatever it is.
        if line.get("stage") == "list":
            assert "same output name" in line["message"]
            continue
        assert (line["status"], row["status"]) == (case.outcome, case.outcome), line
        assert re.search(case.said, line["message"])
        assert line["status"] != "failed" or (line["stage"] == "read" and case.file in line["message"])
        mask = out / f"{scan_name(case.file)}_ich.nii.gz"
        assert mask.is_file() == (line["status"] in ("ok", "flagged"))
        assert row["case"] == (f"'{line['case']}" if line["case"][0] in "=-" else line["case"])
    good = [case for case in cases.values() if case.outcome in ("ok", "flagged")]
    assert len(list(out.glob("*_ich.nii.gz"))) == len(good)
    assert nib.load(out / "25_one_volume_4d_ich.nii.gz").shape == (48, 48, 6, 1)
    assert "Traceback" not in capsys.readouterr().err
