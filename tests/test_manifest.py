"""Tables that name scans, in place of a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ichseg.cli import main
from ichseg.errors import IchsegError
from ichseg.folder import list_scans, names_files, scan_root
from ichseg.folder.manifest import read_manifest


@pytest.fixture
def archive(phantoms, tmp_path) -> Path:
    """Two scans in folders of their own, and a table that names a third one too."""
    images = sorted((phantoms / "images").glob("*.nii.gz"))
    for place, path in zip(("2024/a", "2025/b"), images, strict=False):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "head.nii.gz").write_bytes(path.read_bytes())
    table = tmp_path / "scans.csv"
    table.write_text(f"patient,image\n1,2024/a/head.nii.gz\n2,{tmp_path}/2025/b/head.nii.gz\n3,2025/gone.nii.gz\n"
                     "1,2024/a/head.nii.gz\n", encoding="utf-8-sig")  # fmt: skip
    return table


def test_a_table_is_like_a_folder(archive, tmp_path):
    scans = list_scans(archive, tmp_path / "out")
    assert [scan["case"] for scan in scans] == ["2024/a/head", "2025/b/head", "2025/gone"]
    assert scan_root(archive) == str(tmp_path) and not names_files(archive)
    assert names_files([tmp_path / "2024/a/head.nii.gz"])
    out = tmp_path / "out"
    words = ["segment", str(archive), str(out), "--device", "cpu", "--set", "size=64"]
    assert main(words) == 1
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["status"] == "failed" for row in rows] == [False, False, True]
    assert rows[2]["stage"] == "read" and "gone.nii.gz" in rows[2]["message"]
    assert (out / "2025/b/head_ich.nii.gz").is_file()
    archive.write_text("image\n2024/a/head.nii.gz\n")
    assert main(words) == 0
    (row,) = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert row["file"].endswith("2024/a/head.nii.gz")


def test_parquet(archive, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"image": ["2024/a/head.nii.gz"], "n": [1]}), tmp_path / "scans.parquet")
    assert read_manifest(tmp_path / "scans.parquet") == [tmp_path / "2024/a/head.nii.gz"]
    parquet.write_table(pyarrow.table({"n": [1]}), tmp_path / "other.parquet")
    with pytest.raises(IchsegError, match="no column 'image'; it has n"):
        read_manifest(tmp_path / "other.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(IchsegError, match=r"torn.parquet: not a Parquet file"):
        read_manifest(tmp_path / "torn.parquet")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"file\na.nii.gz\n", "no column 'image'; it has file"),
        (b"", "no column 'image'; it has none"),
        (b"image\n", "names no scan"),
        (b"image,n\na.nii.gz,1\n,2\n", "row 3 has no 'image'"),
        (b"image\n\xff\xfe\x00\n", "not a CSV file in UTF-8"),
    ],
)
def test_a_table_that_is_none(content, told, tmp_path, capsys):
    (tmp_path / "scans.csv").write_bytes(content)
    assert main(["segment", str(tmp_path / "scans.csv"), str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert told in capsys.readouterr().err
