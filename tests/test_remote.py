"""Scans and results in object storage: an S3 server on this machine, and storage in memory."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time

import pytest
from conftest import segmenter_file
from forked import run_module, start_module

from ichseg.cli import main
from ichseg.errors import IchsegError
from ichseg.folder import remote
from ichseg.folder.elsewhere import Elsewhere
from ichseg.folder.remote_scans import list_remote
from ichseg.folder.store import Store
from ichseg.provenance import file_hash

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return segmenter_file(tmp_path_factory.mktemp("weights") / "model.pt")


@pytest.fixture
def scans(phantoms, tmp_path):
    """Five scans, two of them in a subfolder, one of them broken; and a file that is none."""
    folder = tmp_path / "scans"
    (folder / "more").mkdir(parents=True)
    for number, image in enumerate(sorted((phantoms / "images").glob("*.nii.gz"))):
        shutil.copy(image, folder / ("more" if number > 2 else "") / image.name)
    (folder / "broken.nii.gz").write_bytes(b"no scan")
    (folder / "readme.txt").write_text("not a scan")
    return folder


@pytest.fixture
def bucket(scans):
    """URL of a bucket in memory with the scans."""
    fs = fsspec.filesystem("memory")
    fs.rm("/", recursive=True) if fs.ls("/") else None
    fs.put(str(scans), "/bucket/scans", recursive=True)
    return "memory://bucket"


@pytest.fixture(scope="module")
def s3():
    """An S3 server on this machine, and a bucket in it."""
    pytest.importorskip("s3fs")
    server_of = pytest.importorskip("moto.server")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key",
                            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}.items():  # fmt: skip
            patched.setenv(name, value)
        fs = fsspec.filesystem("s3")
        fs.mkdir("bucket")
        yield fs
    server.stop()


def rows_of(text):
    rows = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "file", "reused")} for row in rows]


def read(url):
    with fsspec.open(url, "rb") as stream:
        return stream.read()


def test_masks_and_rows_are_those_of_a_folder(bucket, scans, weights, tmp_path, caplog):
    options = ["--weights", str(weights), "--device", "cpu"]
    assert main(["segment", str(scans), str(tmp_path / "masks"), *options]) == 1
    with caplog.at_level(logging.INFO, "ichseg"):
        assert main(["segment", f"{bucket}/scans", f"{bucket}/masks", *options, "--work-dir", str(tmp_path)]) == 1
    assert "skipped 1 object" in caplog.text and f"report: {bucket}/masks/report.html" in caplog.text
    for mask in (tmp_path / "masks").rglob("*_ich.nii.gz"):
        assert read(f"{bucket}/masks/{mask.relative_to(tmp_path / 'masks')}") == mask.read_bytes()
    here = (tmp_path / "masks" / "results.jsonl").read_text()
    there = read(f"{bucket}/masks/results.jsonl").decode()
    assert rows_of(here) == rows_of(there)
    assert {json.loads(line)["file"] for line in there.splitlines()} >= {f"{bucket}/scans/more/phantom_003.nii.gz"}
    assert b"phantom_003" in read(f"{bucket}/masks/report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks", "scans"]  # nothing is left behind


def test_another_machine_goes_on_and_an_edited_mask_is_kept(bucket, weights, monkeypatch, caplog):
    """Interrupted after one of several chunks; then a mask is edited by hand, and a scan is replaced."""
    from ichseg.folder import FolderRunner

    monkeypatch.setattr(remote, "CHUNK", 2)
    words = ["segment", f"{bucket}/scans", f"{bucket}/masks", "--weights", str(weights), "--device", "cpu"]
    chunks, do_here = [], FolderRunner.do_here

    def interrupted(self, todo, take):
        chunks.append(todo)
        if len(chunks) == 2:
            raise KeyboardInterrupt
        do_here(self, todo, take)

    with monkeypatch.context() as patched:
        patched.setattr(FolderRunner, "do_here", interrupted)
        assert main(words) == 130
    fs = fsspec.filesystem("memory")
    masks = sorted(name for name in fs.find("/bucket/masks") if name.endswith("_ich.nii.gz"))
    assert len(masks) == 1 and fs.exists("/bucket/masks/results.jsonl")  # the first chunk: a broken scan and a good one

    assert main(words) == 1
    rows = [json.loads(line) for line in read(f"{bucket}/masks/results.jsonl").splitlines()]
    assert [row["case"] for row in rows if row.get("reused")] == ["more/phantom_003"]
    assert sum(row["status"] in ("ok", "flagged") for row in rows) == 5

    fs.pipe("/bucket/masks/phantom_001_ich.nii.gz", b"corrected by hand")
    fs.pipe("/bucket/scans/phantom_002.nii.gz", fs.cat("/bucket/scans/phantom_000.nii.gz"))
    before = fs.modified("/bucket/masks/more/phantom_003_ich.nii.gz")
    assert main(words) == 1
    rows = {row["case"]: row for row in map(json.loads, read(f"{bucket}/masks/results.jsonl").splitlines())}
    assert sorted(case for case, row in rows.items() if row.get("reused")) == [
        "more/phantom_003", "more/phantom_004", "phantom_000"]  # fmt: skip
    assert "kept as phantom_001_ich.nii.gz.bak" in rows["phantom_001"]["message"]
    assert fs.cat("/bucket/masks/phantom_001_ich.nii.gz.bak") == b"corrected by hand"
    assert fs.modified("/bucket/masks/more/phantom_003_ich.nii.gz") == before
    assert rows["phantom_002"]["volume_ml"] == rows["phantom_000"]["volume_ml"]
    assert not any("bak" in name for name in fs.find("/bucket/masks") if "phantom_001" not in name)


def test_sent_but_not_yet_told_is_no_strangers_file(bucket, weights, monkeypatch):
    """The process ends between sending masks and telling their versions: what they hold tells whose they are."""
    from ichseg.folder.journal import Journal

    words = ["segment", f"{bucket}/scans", f"{bucket}/masks", "--weights", str(weights), "--device", "cpu"]

    def dies(self, stored):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "note_stored", dies)
        assert main(words) == 130
    fs = fsspec.filesystem("memory")
    assert sum(name.endswith("_ich.nii.gz") for name in fs.find("/bucket/masks")) == 5
    assert main(words) == 1
    rows = [json.loads(line) for line in read(f"{bucket}/masks/results.jsonl").splitlines()]
    assert sum(bool(row.get("reused")) for row in rows) == 5
    assert main([*words, "--threshold", "0.9"]) == 1  # made again, over what is there
    assert not any(".bak" in name for name in fs.find("/bucket/masks"))


def test_parts_their_state_and_one_table(bucket, weights, capsys):
    words = ["segment", f"{bucket}/scans", f"{bucket}/masks", "--weights", str(weights), "--device", "cpu"]
    main([*words, "--shard", "1/2"])
    capsys.readouterr()
    assert main(["status", f"{bucket}/masks"]) == 1
    said = capsys.readouterr().out
    assert "1/2   finished" in said and "2/2   not started" in said
    main([*words, "--shard", "2/2"])
    assert main(["merge", f"{bucket}/masks", "--parquet"]) == 1  # the broken one
    rows = [json.loads(line) for line in read(f"{bucket}/masks/results.jsonl").splitlines()]
    assert len(rows) == 6 and b"phantom_004" in read(f"{bucket}/masks/report.html")
    parquet = pytest.importorskip("pyarrow.parquet")
    with fsspec.open(f"{bucket}/masks/results.parquet") as stream:
        table = parquet.read_table(stream).to_pydict()
    assert table["case"] == [row["case"] for row in rows]
    assert table["volume_ml"] == [row.get("volume_ml") for row in rows]
    assert main(words) == 1  # all of it, reused, in place of the parts
    assert not any("of2" in name for name in fsspec.filesystem("memory").find("/bucket/masks") if "journal" not in name)


def test_tables_files_and_what_is_not_there(bucket, weights, tmp_path, capsys):
    options = ["--weights", str(weights), "--device", "cpu"]
    fs = fsspec.filesystem("memory")
    fs.pipe("/bucket/list.csv", b"image\nscans/phantom_000.nii.gz\nmemory://bucket/scans/more/phantom_003.nii.gz\n"
                                b"scans/gone.nii.gz\n")  # fmt: skip
    assert main(["segment", f"{bucket}/list.csv", str(tmp_path / "masks"), *options]) == 1
    rows = {row["case"]: row for row in map(json.loads, (tmp_path / "masks" / "results.jsonl").open())}
    assert rows["gone"]["status"] == "failed" and rows["gone"]["message"] == "gone.nii.gz: not found"
    assert rows["more/phantom_003"]["file"] == "memory://bucket/scans/more/phantom_003.nii.gz"
    assert (tmp_path / "masks" / "more" / "phantom_003_ich.nii.gz").is_file()
    (tmp_path / "list.csv").write_text(f"image\n{bucket}/scans/phantom_001.nii.gz\n")
    assert main(["segment", str(tmp_path / "list.csv"), str(tmp_path / "one"), *options]) == 0
    assert (tmp_path / "one" / "phantom_001_ich.nii.gz").is_file()
    (tmp_path / "list.csv").write_text(f"image\n{bucket}/scans/phantom_001.nii.gz\nown.nii.gz\n")
    assert main(["segment", str(tmp_path / "list.csv"), str(tmp_path / "one"), *options]) == 2
    assert "use a table for each" in capsys.readouterr().err
    for words, said in (
        ([f"{bucket}/nothing", str(tmp_path / "x")], "no .nii or .nii.gz objects there"),
        ([f"{bucket}/scans", str(tmp_path), str(tmp_path / "x")], "run them separately"),
        ([f"{bucket}/scans", str(tmp_path / "x"), "--engine", "dask"], "split the work with --shard"),
        ([str(tmp_path), str(tmp_path / "x"), "--work-dir", "y"], "--work-dir is for"),
        (["nosuch://bucket", str(tmp_path / "x")], "nosuch"),
    ):
        assert main(["segment", *words, *options]) == 2
        assert said in capsys.readouterr().err


def test_scans_of_this_machine_go_to_storage(bucket, scans, weights):
    assert main(["segment", str(scans), f"{bucket}/own", "--weights", str(weights), "--device", "cpu"]) == 1
    found = {name.removeprefix("/bucket/own/") for name in fsspec.filesystem("memory").find("/bucket/own")}
    assert {"phantom_000_ich.nii.gz", "more/phantom_003_ich.nii.gz", "results.csv", "report.html"} <= found


def test_dicom_of_this_machine_goes_to_storage_and_is_not_done_again(bucket, weights, tmp_path):
    pytest.importorskip("pydicom")
    from broken_files import head
    from dicom_files import save_series

    save_series(tmp_path / "in" / "p1", head((40, 48, 6)).astype(int))
    words = ["segment", str(tmp_path / "in"), f"{bucket}/dicom", "--weights", str(weights), "--device", "cpu"]
    assert main(words) == 0
    found = fsspec.filesystem("memory").find("/bucket/dicom")
    assert {"/bucket/dicom/scans/p1.nii.gz", "/bucket/dicom/p1_ich.nii.gz"} <= set(found)
    assert main(words) == 0
    (row,) = map(json.loads, read(f"{bucket}/dicom/results.jsonl").splitlines())
    assert row["reused"] and row["file"] == str(tmp_path / "in" / "p1")


def test_scans_of_one_name_do_not_replace_each_other(bucket, weights):
    for number, place in enumerate(("one", "two")):
        fsspec.filesystem("memory").copy(f"/bucket/scans/phantom_00{number}.nii.gz", f"/bucket/{place}/ct.nii.gz")
    words = [f"{bucket}/out", "--weights", str(weights), "--device", "cpu", "--no-report"]
    assert main(["segment", f"{bucket}/one/ct.nii.gz", *words]) == 0
    made = read(f"{bucket}/out/ct_ich.nii.gz")
    assert main(["segment", f"{bucket}/two/ct.nii.gz", *words]) == 1
    assert read(f"{bucket}/out/ct_ich.nii.gz") == made
    assert len(read(f"{bucket}/out/results.jsonl").splitlines()) == 2
    fsspec.filesystem("memory").rm("/bucket/one/ct.nii.gz")
    assert main(["segment", f"{bucket}/two/ct.nii.gz", *words]) == 0
    (row,) = map(json.loads, read(f"{bucket}/out/results.jsonl").splitlines())
    assert row["file"] == f"{bucket}/two/ct.nii.gz"


def test_an_s3_server(s3, scans, weights, tmp_path, capsys):
    """From bucket to bucket in another process, killed on its way, and gone on with from a fresh one."""
    s3.put(str(scans), "bucket/scans", recursive=True)
    words = ["ichseg", "segment", "s3://bucket/scans", "s3://bucket/masks", "--weights", str(weights)]
    first = start_module(words)
    limit = time.time() + 120
    while not s3.glob("bucket/masks/*.piece") and time.time() < limit:  # as soon as something is sent
        s3.invalidate_cache()
        time.sleep(0.05)
    first.kill()
    first.join()
    done = run_module(words)
    assert done.returncode == 1, done.stderr
    assert "s3://bucket/masks/report.html" in done.stderr
    assert main(["segment", str(scans), str(tmp_path / "masks"), "--weights", str(weights), "--device", "cpu"]) == 1
    s3.invalidate_cache()
    masks = sorted((tmp_path / "masks").rglob("*_ich.nii.gz"))
    assert len(masks) == 5
    for mask in masks:
        assert s3.cat(f"bucket/masks/{mask.relative_to(tmp_path / 'masks')}") == mask.read_bytes()
    assert rows_of(s3.cat("bucket/masks/results.jsonl").decode()) == rows_of(
        (tmp_path / "masks" / "results.jsonl").read_text()
    )
    assert not any(".bak" in name for name in s3.find("bucket/masks"))
    again = run_module(words)
    assert "5 ok (5 reused" in again.stderr or "(5 reused" in again.stderr
    done = run_module([*words[:3], "s3://no-such-bucket/masks", *words[4:]])
    assert done.returncode == 2 and "s3://no-such-bucket/masks" in done.stderr and "Traceback" not in done.stderr


def test_an_output_counts_by_what_it_holds(bucket, tmp_path):
    """Not by which run has sent something of that name and size last."""
    elsewhere = remote.Elsewhere(Store(f"{bucket}/masks"), {})
    records = []
    for content in (b"first", b"other"):
        (tmp_path / "mask").write_bytes(content)
        version = elsewhere.send(tmp_path, ["mask"])["mask"][1]
        records.append({"bytes": 5, "sha256": hashlib.sha256(content).hexdigest()})
        elsewhere.hashes["mask"][version] = records[-1]["sha256"]
    assert [elsewhere.has("mask", record) for record in records] == [False, True]
    assert elsewhere.make_way("mask", [record["sha256"] for record in records]) is None
    assert elsewhere.make_way("mask", [records[0]["sha256"]]) == "mask.bak"


def test_other_divisions_find_what_was_done(bucket, weights):
    words = ["segment", f"{bucket}/scans", f"{bucket}/masks", "--weights", str(weights), "--device", "cpu"]
    for threshold in ("0.4", "0.6", "0.4"):
        assert main([*words, "--threshold", threshold]) == 1
    for shard in ("1/2", "2/2"):
        main([*words, "--threshold", "0.4", "--shard", shard])
    rows = read(f"{bucket}/masks/results-1of2.jsonl") + read(f"{bucket}/masks/results-2of2.jsonl")
    assert sum(bool(json.loads(line).get("reused")) for line in rows.splitlines()) == 5
    assert not any(".bak" in name for name in fsspec.filesystem("memory").find("/bucket/masks"))


def test_a_run_that_did_not_end_takes_no_tables_of_parts_away(bucket, weights, monkeypatch):
    from ichseg.folder import FolderRunner

    words = ["segment", f"{bucket}/scans", f"{bucket}/masks", "--weights", str(weights), "--device", "cpu"]
    for shard in ("1/2", "2/2"):
        main([*words, "--shard", shard])
    fs = fsspec.filesystem("memory")
    fs.pipe("/bucket/masks/report-cards/mine.html", b"not ours")
    before = {name: fs.cat(name) for name in fs.find("/bucket/masks") if "of2." in name}

    def interrupted(self, mine):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FolderRunner, "_sort_out", interrupted)
        assert main(words) == 130
    assert {name: fs.cat(name) for name in fs.find("/bucket/masks") if "of2." in name} == before
    assert main(words) == 1
    assert not any("results-" in name for name in fs.find("/bucket/masks"))
    assert fs.cat("/bucket/masks/report-cards/mine.html") == b"not ours"


def test_names_with_brackets_and_names_that_lead_out(bucket, weights, tmp_path, caplog):
    fs = fsspec.filesystem("memory")
    scan = fs.cat("/bucket/scans/phantom_000.nii.gz")
    for name in ("scan[1]", "scan1", "a b#c%20"):
        fs.pipe(f"/bucket/odd/{name}.nii.gz", scan)
    words = ["segment", f"{bucket}/odd", f"{bucket}/masks", "--weights", str(weights), "--device", "cpu"]
    assert main(words) == 0
    mask = fs.cat_file("/bucket/masks/scan1_ich.nii.gz")
    fs.pipe("/bucket/masks/scan[1]_ich.nii.gz", b"corrected by hand")
    assert main(words) == 0
    assert fs.cat_file("/bucket/masks/scan[1]_ich.nii.gz.bak") == b"corrected by hand"
    assert fs.cat_file("/bucket/masks/scan1_ich.nii.gz") == fs.cat_file("/bucket/masks/scan[1]_ich.nii.gz") == mask

    found = {"/bucket/odd/../../out.nii.gz": {"name": "x", "size": 1}, "/bucket/odd/in.nii.gz": {"size": 1}}
    store = Store(f"{bucket}/odd")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store.fs, "find", lambda *args, **kwargs: found)
        assert list(store.files()) == ["in.nii.gz"]
    (tmp_path / "list.csv").write_text(f"image\n{bucket}/odd/scan1.nii.gz\n{bucket}/odd/../../out.nii.gz\n")
    with pytest.raises(IchsegError, match="leads out"):
        list_remote([str(tmp_path / "list.csv")], tmp_path)


def test_what_somebody_edits_meanwhile_is_not_removed(tmp_path):
    names = ["a.nii.gz", "b.nii.gz"]
    for name in names:
        (tmp_path / name).write_bytes(b"made by a run")
    kept = {"bytes": 13, "sha256": file_hash(tmp_path / "a.nii.gz")}
    elsewhere = Elsewhere(store := Store(f"file://{tmp_path}/masks"), {})
    elsewhere.send(tmp_path, names)
    assert elsewhere.has("a.nii.gz", kept)
    (tmp_path / "masks" / "a.nii.gz").write_bytes(b"edited")
    assert not elsewhere.remove("a.nii.gz", kept) and elsewhere.remove("b.nii.gz", kept)
    assert not elsewhere.remove("b.nii.gz", kept) and not elsewhere.remove("c.nii.gz", kept)
    assert list(elsewhere.files) == list(store.files()) == ["a.nii.gz"]
