"""Folder runs: what is done is verified and kept, what is missing or changed is done, nothing is half there."""

from __future__ import annotations

import copy
import csv
import errno
import json
import os
import re
import subprocess
import sys
import time
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from broken_files import AFFINE, head, image
from conftest import as_usual, classifier_file
from forked import start_module
from kill_runs import compare

from ichseg.bundle import BundleParts, bundle_folder, config_values
from ichseg.cli import main
from ichseg.errors import IchsegError
from ichseg.folder import Journal, Shard, list_scans, merge_parts
from ichseg.folder.threads import run_in_turn, run_overlapped
from ichseg.networks import SegmenterSettings, read_checkpoint, read_settings, save_weights
from ichseg.provenance import file_hash, network_hash, value_hash

WEIGHTS = bundle_folder("ich_segmentation") / "models" / "model.pt"


@pytest.fixture
def scans(tmp_path) -> Path:
    folder = tmp_path / "scans"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a", "b", "sub/a", "c")):
        array = head()
        array[10 + number : 18 + number, 20:28, 2] = 62
        image(array, AFFINE).to_filename(folder / f"{name}.nii.gz")
    return folder


def run(scans, out, *words) -> int:
    return main(["segment", str(scans), str(out), "--device", "cpu", "--size", "64", *map(str, words)])


def rows(out, name="results"):
    lines = (out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["case"]: row for row in map(json.loads, lines)}


def stamps(out):
    return {path.name: path.stat().st_mtime_ns for path in out.glob("**/*_ich.nii.gz")}


def reused(out):
    return sorted(case for case, row in rows(out).items() if row.get("reused"))


def test_a_second_run_does_nothing(scans, tmp_path):
    out = tmp_path / "out"
    assert run(scans, out) == 0
    first, table = stamps(out), rows(out)
    assert not reused(out)
    assert run(scans, out) == 0
    assert stamps(out) == first and reused(out) == ["a", "b", "c", "sub/a"]
    assert [{k: v for k, v in row.items() if k != "reused"} for row in rows(out).values()] == list(table.values())


def test_only_what_is_missing_or_changed_is_done(scans, tmp_path):
    out = tmp_path / "out"
    assert run(scans, out) == 0
    kept = {path: path.read_bytes() for path in out.glob("**/*_ich.nii.gz")}
    (out / "b_ich.nii.gz").unlink()
    changed = head()
    changed[20:30, 20:30, 3] = 64
    image(changed, AFFINE).to_filename(scans / "c.nii.gz")
    image(head(), AFFINE).to_filename(scans / "new.nii.gz")
    assert run(scans, out) == 0
    assert reused(out) == ["a", "sub/a"]
    assert (out / "b_ich.nii.gz").read_bytes() == kept[out / "b_ich.nii.gz"]
    assert len(rows(out)) == 5 and (out / "new_ich.nii.gz").is_file()
    plain = image(head(), AFFINE)
    plain.to_filename(scans / "plain.nii")
    assert run(scans, out) == 0 and len(reused(out)) == 5
    plain.dataobj[20, 20, 3] += 1  # as many bytes, others
    plain.to_filename(scans / "plain.nii")
    assert run(scans, out) == 0 and len(reused(out)) == 5 and "reused" not in rows(out)["plain"]
    (scans / "plain.nii").unlink()
    # a picture of the report counts as an output too
    (out / "report_cases" / "a.json").unlink()
    assert run(scans, out) == 0 and reused(out) == ["b", "c", "new", "sub/a"]


@pytest.mark.parametrize("word", [["--threshold", "0.4"], ["--overwrite"], ["--set", "window_width=120"]])
def test_other_settings_do_all_anew(scans, tmp_path, word):
    out = tmp_path / "out"
    assert run(scans, out) == 0
    assert run(scans, out, *word) == 0 and not reused(out)


def test_other_weights_and_versions_do_all_anew(scans, tmp_path, monkeypatch):
    out, other = tmp_path / "out", tmp_path / "other.pt"
    state = {k: v * 1.1 if v.dtype.is_floating_point else v for k, v in read_checkpoint(WEIGHTS).items()}
    save_weights(other, state, read_settings(WEIGHTS, SegmenterSettings))
    assert run(scans, out) == 0
    assert run(scans, out, "--weights", other) == 0 and not reused(out)
    # the same bytes under another name are the same weights
    (tmp_path / "copy.pt").write_bytes(WEIGHTS.read_bytes())
    assert run(scans, out) == 0
    assert run(scans, out, "--weights", tmp_path / "copy.pt") == 0 and len(reused(out)) == 4
    monkeypatch.setattr("ichseg.folder.journal.__version__", "99")
    assert run(scans, out) == 0 and not reused(out)


def test_probabilities_of_other_masks_do_not_stay_beside_these(scans, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other.pt"
    state = {k: v * 1.1 if v.dtype.is_floating_point else v for k, v in read_checkpoint(WEIGHTS).items()}
    save_weights(other, state, read_settings(WEIGHTS, SegmenterSettings))

    def there() -> list[str]:
        return sorted(path.name for path in out.rglob("*_probability.nii.gz"))

    assert run(scans, out, "--save-probabilities") == 0
    every = there()
    assert len(every) == 4
    assert run(scans, out) == 0 and not reused(out) and there() == every  # the same masks, of the same weights
    (out / "b_probability.nii.gz").write_bytes(b"somebody's work")
    assert run(scans, out, "--weights", other) == 0 and there() == ["b_probability.nii.gz"]
    assert run(scans, out, "--weights", other, "--save-probabilities") == 0 and there() == every
    assert (out / "b_probability.nii.gz.bak").read_bytes() == b"somebody's work"
    # Masks without a voxel are the same whatever the weights: an earlier run's are reused, without what another left.
    empty = ["--threshold", "0.999"]
    assert run(scans, out, *empty) == 0 and there() == []
    assert run(scans, out, *empty, "--weights", other, "--save-probabilities") == 0 and there() == every
    assert run(scans, out, *empty) == 0 and len(reused(out)) == 4 and there() == []


def test_other_results_and_inputs_stay(scans, tmp_path):
    """Only probabilities are taken away: not what another command wrote of a case, nor the scan itself."""
    journal = Journal(tmp_path)
    item = {"case": "a", "image": str(tmp_path / "scans" / "a.nii.gz")}
    (tmp_path / "scans" / "a.nii.gz").unlink(missing_ok=True)
    for name in ("a_pseudo.nii.gz", "a_ich.nii.gz"):
        (tmp_path / name).write_text(name)
    (tmp_path / "scans").mkdir(exist_ok=True)
    Path(item["image"]).write_text("made of DICOM")
    made = {"bytes": 1, "sha256": "of the DICOM files", "item": ""}
    with journal.opened({"of": "DICOM"}):
        journal.record(item, made, {}, [tmp_path / "a_pseudo.nii.gz", Path(item["image"])])
    journal.weights = {"model.pt": "others"}
    with journal.opened({"of": "NIfTI"}):
        now = journal.identity(item)
        journal.record(item, now, {}, [tmp_path / "a_ich.nii.gz"])
        assert (tmp_path / "a_pseudo.nii.gz").is_file() and Path(item["image"]).is_file()
        assert journal.withdraw(item, now) == ["a_pseudo.nii.gz"] and Path(item["image"]).is_file()


def test_an_edited_mask_is_set_aside(scans, tmp_path, caplog):
    out = tmp_path / "out"
    assert run(scans, out) == 0
    made = (out / "a_ich.nii.gz").read_bytes()
    (out / "a_ich.nii.gz").write_bytes(b"somebody's work")
    assert run(scans, out) == 0
    assert (out / "a_ich.nii.gz").read_bytes() == made
    assert (out / "a_ich.nii.gz.bak").read_bytes() == b"somebody's work"
    assert "kept as a_ich.nii.gz.bak" in caplog.text and reused(out) == ["b", "c", "sub/a"]
    assert "kept as a_ich.nii.gz.bak" in rows(out)["a"]["message"] and rows(out)["a"]["status"] == "flagged"
    (out / "a_ich.nii.gz").write_bytes(b"more of it")
    assert run(scans, out) == 0
    assert (out / "a_ich.nii.gz.bak").read_bytes() == b"somebody's work"
    assert (out / "a_ich.nii.gz.bak2").read_bytes() == b"more of it"
    assert (out / "a_ich.nii.gz").read_bytes() == made


def test_nothing_of_another_hand_is_overwritten(scans, tmp_path, monkeypatch):
    as_usual(monkeypatch)
    out = tmp_path / "out"
    out.mkdir()
    (out / "a_ich.nii.gz").write_bytes(b"drawn by hand")  # in no journal
    assert run(scans, out) == 0
    assert (out / "a_ich.nii.gz.bak").read_bytes() == b"drawn by hand" and rows(out)["a"]["status"] == "flagged"
    assert not list(out.rglob("*.bak2")) and run(scans, out, "--overwrite") == 0 and len(list(out.rglob("*.bak*"))) == 1
    # a scan of the input whose name is that of another's mask
    image(head(), AFFINE).to_filename(scans / "a_ich.nii.gz")
    kept = (scans / "a_ich.nii.gz").read_bytes()
    assert run(scans, scans) == 1 and (scans / "a_ich.nii.gz").read_bytes() == kept
    assert "would overwrite" in rows(scans)["a"]["message"] and rows(scans)["a_ich"]["status"] == "ok"


def test_a_run_that_was_killed_knows_its_own_files(scans, tmp_path):
    out = tmp_path / "out"
    assert run(scans, out) == 0
    lines = (out / "journal.jsonl").read_text().splitlines(keepends=True)
    (out / "journal.jsonl").write_text("".join(line for line in lines if '"outputs"' not in line))  # killed before
    assert run(scans, out) == 0 and not reused(out) and not list(out.rglob("*.bak*"))
    # what somebody puts there meanwhile is not the run's own
    (out / "journal.jsonl").write_text("".join(line for line in lines if '"outputs"' not in line))
    (out / "a_ich.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes())
    assert run(scans, out) == 0
    assert (out / "a_ich.nii.gz.bak").read_bytes() == (scans / "a.nii.gz").read_bytes()
    assert len(list(out.rglob("*.bak*"))) == 1


def test_what_one_journal_began_and_another_recorded_is_done(scans, tmp_path):
    """A process that was killed knows a file for its own only until another has recorded it."""
    out = tmp_path / "out"
    assert run(scans, out) == 0
    lines = (out / "journal.jsonl").read_text().splitlines(keepends=True)
    killed = [line for line in lines if '"outputs"' not in line]
    (out / "journal-worker-z.jsonl").write_text("".join(killed))  # read after the other, written before it
    mask = nib.load(out / "a_ich.nii.gz")
    array = np.array(mask.dataobj)
    array[0, 0, 0] = 1 - array[0, 0, 0]
    nib.Nifti1Image(array, None, mask.header).to_filename(out / "a_ich.nii.gz")  # edited, with the header it had
    edited = (out / "a_ich.nii.gz").read_bytes()
    assert run(scans, out) == 0 and (out / "a_ich.nii.gz.bak").read_bytes() == edited
    # the other way around: begun after it was recorded
    (out / "a_ich.nii.gz").write_bytes(edited)
    again = {"begun": "a_ich.nii.gz", "at": time.time()}
    with (out / "journal-worker-a.jsonl").open("w") as stream:
        stream.write(json.dumps({**again, "sum": value_hash(again)}) + "\n")
    assert run(scans, out) == 0 and not (out / "a_ich.nii.gz.bak2").exists()


@pytest.mark.parametrize("edit", ['"run"', '"sha256"', '"bytes"', '"lesions"', '"status"', "a_ich.nii.gz"])
def test_edited_lines_of_the_journal_do_not_count(scans, tmp_path, edit):
    out = tmp_path / "out"
    assert run(scans, out) == 0
    text = (out / "journal.jsonl").read_text()
    assert edit in text
    (out / "journal.jsonl").write_text(text.replace(edit, '"../../x"'))
    assert run(scans, out) == 0 and len(reused(out)) < 4


def test_a_journal_reaches_nothing_outside(scans, tmp_path):
    out, other = tmp_path / "out", tmp_path / "precious"
    other.write_bytes(b"precious")
    assert run(scans, out) == 0
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    evil = next(line for line in lines if line.get("case") == "a")
    evil["outputs"] = {"../precious": {"bytes": 8, "sha256": file_hash(other)}}
    evil["input"]["sha256"] = "0" * 64
    evil.pop("sum")
    with (out / "journal.jsonl").open("a") as stream:
        stream.write(json.dumps({**evil, "sum": value_hash(evil)}) + "\n")
    (scans / "a.nii.gz").write_bytes(b"no scan")
    assert run(scans, out) == 1 and other.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "name", [b"line\xe2\x80\xa8sep.nii.gz", b"bad\xff.nii.gz", b"new\nline.nii.gz", b"\xc3\xa4.nii"]
)
def test_odd_names_resume_and_join(scans, tmp_path, name, capsys):
    out = tmp_path / "out"
    try:
        image(head(), AFFINE).to_filename(scans / "x.nii")
        (scans / "x.nii").rename(scans / os.fsdecode(name.replace(b".gz", b"")))
    except OSError:
        pytest.skip("this file system takes no such names")
    for _ in range(2):
        assert run(scans, out) == 0
    assert len(reused(out)) == 5
    json.dumps([json.loads(line) for line in (out / "results.jsonl").read_text(encoding="ascii").splitlines()])
    for part in ("1/2", "2/2"):
        assert run(scans, tmp_path / "parts", "--shard", part) == 0
    assert main(["merge", str(tmp_path / "parts")]) == 0


def test_a_mask_of_an_input_that_is_no_more_is_removed(scans, tmp_path):
    out = tmp_path / "out"
    assert run(scans, out) == 0
    (scans / "a.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes()[:200])
    assert run(scans, out) == 1
    assert rows(out)["a"]["status"] == "failed" and not (out / "a_ich.nii.gz").exists()
    assert "removed outputs of a different scan with this name: a_ich.nii.gz, report" in rows(out)["a"]["message"]
    assert sorted(stamps(out)) == ["a_ich.nii.gz", "b_ich.nii.gz", "c_ich.nii.gz"]  # the first is sub/a's


def test_masks_without_a_scan_are_told(scans, tmp_path, caplog):
    out = tmp_path / "out"
    assert run(scans, out) == 0 and "also contains masks" not in caplog.text
    (scans / "b.nii.gz").unlink()
    assert run(scans, out) == 0
    assert "also contains masks of 1 other scan, such as b;" in caplog.text
    assert (out / "b_ich.nii.gz").is_file() and "b" not in rows(out)


def test_hidden_folders_are_passed_by(scans, tmp_path):
    (scans / ".hidden").mkdir()
    (scans / "a.nii.gz").rename(scans / ".hidden" / "a.nii.gz")
    assert run(scans, tmp_path / "out") == 0 and sorted(rows(tmp_path / "out")) == ["b", "c", "sub/a"]


def test_paths_keep_what_monai_takes_for_separators(scans, tmp_path):
    """MONAI turns ``#`` of a config's text into ``::``."""
    inside, out = tmp_path / "a#1" / "@in", tmp_path / "a#1" / "$out"
    inside.parent.mkdir()
    scans.rename(inside)
    (inside / "a.nii.gz").rename(inside / "x#y.nii.gz")
    (inside.parent / "w#.pt").write_bytes(WEIGHTS.read_bytes())
    assert run(inside, out, "--weights", inside.parent / "w#.pt") == 0
    assert (out / "x#y_ich.nii.gz").is_file() and sorted(p.name for p in tmp_path.iterdir()) == ["a#1"]


def test_an_input_that_cannot_be_read_now_loses_nothing(scans, tmp_path):
    out = tmp_path / "out"
    assert run(scans, out) == 0
    kept = (scans / "a.nii.gz").rename(tmp_path / "away.nii.gz")
    (scans / "a.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    assert run(scans, out) == 1 and (out / "a_ich.nii.gz").is_file()
    assert rows(out)["a"]["message"].endswith("does not exist; outputs of an earlier run are kept")
    (scans / "a.nii.gz").unlink()
    kept.rename(scans / "a.nii.gz")
    assert run(scans, out) == 0 and len(reused(out)) == 4


def test_a_torn_journal_and_leftovers_are_no_harm(scans, tmp_path):
    out = tmp_path / "out"
    assert run(scans, out) == 0
    text = (out / "journal.jsonl").read_text()
    (out / "journal.jsonl").write_text(text[: text.rindex('"row"') + 9])
    left = out / "sub" / ".ichseg-tmp-1-0123abcd"
    left.write_bytes(b"half")
    assert run(scans, out) == 0
    assert len(reused(out)) == 3 and not left.exists()
    assert run(scans, out) == 0 and len(reused(out)) == 4
    (out / "journal.jsonl").write_bytes(b"\x00\xff{}\n[1]\n" + b'{"case": "a"}\n' * 3)
    assert run(scans, out) == 0 and not reused(out)


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(scans, tmp_path, monkeypatch, capsys):
    out, calm, real, calls = tmp_path / "out", tmp_path / "calm", os.fsync, []
    assert run(scans, calm) == 0

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert run(scans, out) == 2
    told = capsys.readouterr().err
    assert "No space left on device; stopped. Finished scans are kept" in told and "Traceback" not in told
    monkeypatch.undo()
    done = stamps(out)
    assert 0 < len(done) < 4 and not list(out.rglob(".ichseg-tmp-*"))
    for path in out.glob("**/*_ich.nii.gz"):
        assert path.read_bytes() == (calm / path.relative_to(out)).read_bytes()
    assert run(scans, out) == 0
    assert {p.relative_to(out): p.read_bytes() for p in out.glob("**/*_ich.nii.gz")} == {
        p.relative_to(calm): p.read_bytes() for p in calm.glob("**/*_ich.nii.gz")}  # fmt: skip


def test_one_mask_that_cannot_be_written_is_one_row(scans, tmp_path):
    out = tmp_path / "out"
    (out / "b_ich.nii.gz").mkdir(parents=True)  # in the way
    assert run(scans, out) == 1
    assert rows(out)["b"]["status"] == "failed" and rows(out)["b"]["stage"] == "write"
    assert sum(row["status"] != "failed" for row in rows(out).values()) == 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sizes are limited the Linux way")
def test_a_write_that_breaks_off_is_one_row(scans, tmp_path):
    """The system refuses to let files grow: masks get as far as they get, and no half of one stays."""
    code = ("import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (12000, 12000)); "
            "from ichseg.cli import main; sys.exit(main(sys.argv[1:]))")  # fmt: skip
    words = ["segment", scans, tmp_path / "out", "--device", "cpu", "--size", "64", "--save-probabilities"]
    words += ["--set", "report=false"]  # which is larger than that
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    table = rows(tmp_path / "out")
    assert {row["stage"] for row in table.values()} == {"write"} and not stamps(tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".ichseg-tmp-*"))
    assert "File too large" in table["a"]["message"]


@pytest.mark.slow
def test_kill_after_kill_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    told = compare(tmp_path / "runs", good=12, broken=6, kills=2)
    assert told["same_masks"] and told["same_rows"] and told["half_written"] == 0 and told["left_over"] == []
    assert (told["masks"], told["failed_rows"], told["exit_codes"]) == (12, 6, [1, 1])


@pytest.mark.slow
def test_parts_do_not_collide_and_join(scans, tmp_path, capsys):
    whole, out = tmp_path / "whole", tmp_path / "out"
    (scans / "broken.nii.gz").write_bytes(b"no scan")
    assert run(scans, whole) == 1
    words = ["ichseg", "segment", str(scans), str(out), "--device", "cpu", "--size", "64"]
    parts = [start_module([*words, "--shard", f"{k}/2"]) for k in (1, 2)]
    for part in parts:
        part.join()
    assert sorted(part.exitcode for part in parts) == [0, 1]
    assert not (out / "results.csv").exists() and not (out / "report.html").exists()
    mine = [set(rows(out, f"results-{k}of2")) for k in (1, 2)]
    assert not mine[0] & mine[1] and mine[0] | mine[1] == set(rows(whole))
    assert main(["merge", str(out)]) == 1  # one scan failed
    assert "1 failed, 4 ok" in capsys.readouterr().out.replace("flagged", "ok")
    tables = [rows(whole), rows(out)]
    for table in tables:
        for row in table.values():
            row.pop("seconds")
    assert tables[0] == tables[1] and list(tables[0]) == list(tables[1])
    assert (out / "report.html").is_file()
    told = json.loads((out / "report.json").read_text())
    assert told["parts"] == 2 and told["scans"]["failed"] == 1
    with (out / "results.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 5
    for path in whole.glob("**/*_ich.nii.gz"):
        assert path.read_bytes() == (out / path.relative_to(whole)).read_bytes()
    kept = (out / "results-2of2.jsonl").rename(tmp_path / "kept")
    assert main(["merge", str(out)]) == 1
    assert f"part 2/2 is interrupted; {len(mine[1])} of its scans are missing" in capsys.readouterr().err
    kept.rename(out / "results-2of2.jsonl")
    assert run(scans, out, "--shard", "1/2", "--threshold", "0.4") in (0, 1)
    assert main(["merge", str(out)]) == 2 and "was made with different settings" in capsys.readouterr().err
    assert run(scans, out) == 1 and len(reused(out)) == 4  # a run of everything believes the parts
    # ... and takes their place: older tables are not to be joined over newer ones
    assert main(["merge", str(out)]) == 2 and "nothing to merge" in capsys.readouterr().err


def test_one_more_file_takes_no_rows_of_parts_away(scans, tmp_path, capsys):
    out, late = tmp_path / "out", tmp_path / "late.nii.gz"
    for part in ("1/2", "2/2"):
        assert run(scans, out, "--shard", part) == 0
    image(head(), AFFINE).to_filename(late)
    assert run(late, out) == 0
    assert set(rows(out)) == {"a", "b", "sub/a", "c", "late"} and not list(out.glob("results-*"))
    assert run(scans, out, "--shard", "1/3") == 0
    assert run(scans, out, "--shard", "1/2") == 0 and run(scans, out, "--shard", "2/2") == 0
    for table in out.glob("results-*of3*"):
        table.unlink()
    capsys.readouterr()
    assert main(["merge", str(out)]) == 0 and main(["status", str(out)]) == 0  # not of the division of long ago
    assert "1/3" not in capsys.readouterr().out


def test_rows_of_one_file_are_all_joined(tmp_path):
    same = {"file": "study", "status": "skipped", "message": "not a scan"}
    for number in (1, 2):
        text = "".join(json.dumps({**same, "case": f"series {2 * number + k}"}) + "\n" for k in range(2))
        (tmp_path / f"results-{number}of2.jsonl").write_text(text)
        (tmp_path / f"report-{number}of2.json").write_text('{"run": "x", "finished": "2026-01-01T00:00:00+00:00"}')
    assert [row["case"] for row in merge_parts(tmp_path)[0].rows] == [f"series {n}" for n in (2, 3, 4, 5)]


def test_names_stay_in_the_output_folder(scans, tmp_path, monkeypatch):
    (tmp_path / "w" / "y").mkdir(parents=True)
    image(head(), AFFINE).to_filename(tmp_path / "w" / "y" / "d.nii.gz")
    monkeypatch.chdir(tmp_path / "w")
    words = ["segment", "../scans", "y", str(tmp_path / "out"), "--device", "cpu", "--size", "64", "--no-report"]
    assert main(words) == 0 and main(words) == 0
    assert set(rows(tmp_path / "out")) == {"scans/a", "scans/b", "scans/sub/a", "scans/c", "w/y/d"}
    assert len(reused(tmp_path / "out")) == 5 and not list((tmp_path / "w").rglob("*_ich*"))


def test_a_mask_that_is_named_is_told(scans, tmp_path, capsys):
    names = sorted(scans.glob("*.nii.gz"))
    words = ["--device", "cpu", "--size", "64", "--no-report"]
    assert main(["segment", *map(str, names), str(scans), *words]) == 0
    again = sorted(scans.glob("*.nii.gz"))
    assert len(again) == 6 and main(["segment", *map(str, again), str(scans), *words]) == 0
    skipped = {case for case, row in rows(scans).items() if row["status"] == "skipped"}
    assert skipped == {"a_ich", "b_ich", "c_ich"} and not list(scans.glob("*_ich_ich*"))
    (tmp_path / "masks").mkdir()
    (scans / "a_ich.nii.gz").rename(tmp_path / "masks" / "a_ich.nii.gz")
    assert run(tmp_path / "masks", tmp_path / "out") == 2
    assert "holds masks made by ichseg (1) and no scan" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_a_row(scans, tmp_path, monkeypatch):
    scandir = os.scandir

    def closed(path):
        if os.fspath(path) == str(scans / "sub"):  # as for a user without rights; root reads every folder
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert run(scans, tmp_path / "out") == 1
    assert rows(tmp_path / "out")["sub"]["message"] == "sub: cannot be read (Permission denied)"
    assert len(rows(tmp_path / "out")) == 4


def test_tables_and_pages_of_an_earlier_run_go(scans, tmp_path):
    pytest.importorskip("pyarrow")
    out = tmp_path / "out"
    assert run(scans, out, "--parquet") == 0 and (out / "results.parquet").is_file()
    (out / "report-2.html").write_text("of an earlier run")
    assert run(scans, out) == 0
    assert not (out / "results.parquet").exists() and not (out / "report-2.html").exists()


def test_merging_says_what_is_wrong(tmp_path):
    with pytest.raises(IchsegError, match=r"no results-KofN.jsonl here"):
        merge_parts(tmp_path)
    good = {"case": "a", "file": "a", "status": "ok", "volume_ml": 0.0, "lesions": 0}
    (tmp_path / "results-1of2.jsonl").write_text(json.dumps(good) + "\n")
    (tmp_path / "results-1of3.jsonl").write_text("")
    with pytest.raises(IchsegError, match="parts of 2 and of 3"):
        merge_parts(tmp_path)
    (tmp_path / "results-1of3.jsonl").unlink()
    (tmp_path / "report-1of2.json").write_text('{"run": "x"}')
    (tmp_path / "results-2of2.jsonl").write_text("")
    with pytest.raises(IchsegError, match=r"part 2/2 has no journal"):
        merge_parts(tmp_path)
    (tmp_path / "report-2of2.json").write_text('{"run": "y", "finished": "2026-01-01T00:00:00+00:00"}')
    with pytest.raises(IchsegError, match=r"part [12]/2 was made with different settings"):
        merge_parts(tmp_path)
    (tmp_path / "report-2of2.json").write_text('{"run": "x", "finished": "2026-01-01T00:00:00+00:00"}')
    results, unfinished = merge_parts(tmp_path)
    assert [row["case"] for row in results.rows] == ["a"]
    assert [(part.name, part.state) for part in unfinished] == [("1/2", "interrupted")]
    for wrong in ({}, {**good, "status": "great"}, {**good, "volume_ml": "x"}, {**good, "lesions": 2}, [], 1):
        (tmp_path / "results-2of2.jsonl").write_text(json.dumps(wrong) + "\n")
        with pytest.raises(IchsegError, match=r"results-2of2.jsonl: line 1 is not a valid row"):
            merge_parts(tmp_path)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_part_that_is_none(text, scans, tmp_path, capsys):
    assert run(scans, tmp_path / "out", "--shard", text) == 2
    assert "write K/N" in capsys.readouterr().err


def test_every_case_is_in_one_part():
    for count in (1, 2, 7):
        for case in ("a", "sub/ä", "x" * 300):
            assert sum(Shard(k, count).holds(case) for k in range(1, count + 1)) == 1


def test_two_runs_on_one_folder_do_not_meet(tmp_path):
    pytest.importorskip("fcntl")
    with Journal(tmp_path, WEIGHTS).opened():
        with (
            pytest.raises(IchsegError, match="another run is writing to this folder"),
            Journal(tmp_path, WEIGHTS).opened(),
        ):
            pass
        with pytest.raises(IchsegError, match="a run without --shard"), Journal(tmp_path, shard="1/2").opened():
            pass
    part = Journal(tmp_path, shard="1/2")
    with part.opened(), Journal(tmp_path, shard="2/2").opened(), pytest.raises(IchsegError, match="another run"):
        part._lock(ExitStack(), tmp_path / ".journal-1of2.lock", shared=False)


def test_own_masks_among_the_scans_are_told_and_skipped(scans, tmp_path):
    assert run(scans, tmp_path / "first") == 0
    (tmp_path / "first" / "a_ich.nii.gz").rename(scans / "a_ich.nii.gz")
    assert run(scans, tmp_path / "second") == 0
    row = rows(tmp_path / "second")["a_ich"]
    assert row["status"] == "skipped" and "a mask written by ichseg" in row["message"]
    assert [scan["case"] for scan in list_scans(scans, scans)] == ["a", "b", "c", "sub/a"]  # output and input are one


def test_probabilities_and_small_lesions(scans, tmp_path):
    out = tmp_path / "out"
    assert run(scans, out, "--save-probabilities", "--threshold", "0.3", "--min-volume", "0.5",
               "--set", "fill_holes_mm2=0") == 0  # fmt: skip
    for path in out.glob("**/*_probability.nii.gz"):
        image_, mask = nib.load(path), nib.load(str(path).replace("_probability", "_ich"))
        assert image_.get_data_dtype() == np.float32 and (image_.affine == mask.affine).all()
        over, voxels = np.asarray(image_.dataobj) > 0.3, np.asarray(mask.dataobj) > 0
        assert (voxels <= over).all() and over.sum() >= voxels.sum()
    assert run(scans, tmp_path / "bad", "--min-volume", "-1") == 2


def test_overlapping_keeps_order_and_ends_on_errors():
    seen, held, most = [], [], []

    def read(n):
        held.append(n)
        most.append(len(held))
        return n

    def finish(n):
        seen.append(n)
        held.remove(n)

    run_overlapped(range(50), read, lambda n: n, finish)
    assert seen == list(range(50)) and max(most) <= 2
    run_in_turn(range(3), read, lambda n: n, finish)
    for broken in range(3):
        steps = [lambda n: n, lambda n: n, lambda n: None]

        def fails(n):
            if n == 5:
                raise OSError("no room")
            return n

        steps[broken] = fails
        with pytest.raises(OSError, match="no room"):
            run_overlapped(range(50), *steps)


# Other values of every key that the outputs depend on; the rest are places, devices, and how much at once.
OTHER = {
    "ich_segmentation": {"size": 96, "window_level": 40, "window_width": 90, "threshold": 0.4, "members": 2,
                       "flip": True, "fusion_weight": 0.1, "support_weight": 0.4, "remove_shell": False,
                       "min_volume_ml": 3.0, "fill_holes_mm2": 5.0,
                       "restore_bone": False, "slab_mm": 2.0, "remove_cupping": False, "report": False,
                       "save_probabilities": True, "precision": "bf16", "backend": "openvino",
                       "dicom_objects": ["seg"]},
    "ich_pseudo_segmentation": {
                      "size": 96, "window_level": 40, "window_width": 90, "strip_skull": True, "method": "layer_cam",
                      "cam_layers": ["layer2"], "target": "predicted", "gate": 0.4, "gate_rule": "either",
                      "gate_by": "label", "component_mode": "channel", "component_sign": "border",
                      "combine": "additive", "upsample": "first", "amplify_scale": 1, "fusion_window": 1,
                      "fusion_weight": 0.1, "fusion_normalization": "window", "threshold": 0.4, "rule": "and",
                      "layers": 1, "intracranial": True, "crf_iterations": 1, "crf_unary": "score",
                      "crf_label_probability": 0.8, "crf_score_power": 2, "crf_spatial_sigma": 2,
                      "crf_spatial_weight": 2, "crf_bilateral_sigma": 70, "crf_intensity_sigma": 12,
                      "crf_bilateral_weight": 9, "crf_backend": "exact", "score_first": True, "precision": "bf16"},
}  # fmt: skip
BESIDE = {"bundle_root", "dataset_dir", "weights", "folds", "maps_dir", "batch_size", "device_name", "precision_check",
          "overwrite", "shard", "size_limit_gib", "series", "parquet"}  # fmt: skip


@pytest.mark.parametrize(("bundle", "name"), [("ich_segmentation", "inference.yaml"),
                                              ("ich_pseudo_segmentation", "inference.yaml")])  # fmt: skip
def test_every_setting_counts(bundle, name, phantoms, tmp_path, monkeypatch):
    """A run goes by what the steps were built with: no list of keys is needed, and nested overrides count too."""
    places = {"dataset_dir": str(phantoms), "output_dir": str(tmp_path), "device_name": "cpu"}
    if bundle == "ich_pseudo_segmentation":
        # The networks are not asked anything here: small ones are soon made.
        layers = torch.nn.Sequential(OrderedDict(layer1=torch.nn.Conv2d(1, 2, 3), layer2=torch.nn.Conv2d(2, 2, 3)))
        places["classifiers"] = {"resnet34": str(classifier_file(tmp_path / "resnet34.pt"))}
        monkeypatch.setattr("ichseg.networks.classifiers.slice_classifier", lambda name: copy.deepcopy(layers))
        monkeypatch.setattr("ichseg.networks.classifiers.load_weights", lambda network, path: network)
    values = {key for key, value in config_values(bundle, name).items()
              if not isinstance(value, dict) and not re.search(r"[$@]|_target_", str(value))}  # fmt: skip
    assert values - BESIDE == set(OTHER[bundle])

    def made_of(**overrides):
        try:
            runner = BundleParts(bundle, name, {**places, **overrides})["evaluator"]
        except IchsegError as error:  # one member of a file of two
            return str(error)
        return value_hash([runner.settings(), network_hash(runner.network)])

    usual = made_of()
    assert made_of() == usual and made_of(batch_size=3, output_dir=str(tmp_path / "b")) == usual
    same = [key for key, value in OTHER[bundle].items() if made_of(**{key: value}) == usual]
    assert not same
    if bundle == "ich_segmentation":
        assert made_of(**{"postprocessing::transforms::4::threshold": 0.9}) != usual


@pytest.mark.slow
def test_pseudo_masks_resume_too(phantoms, tmp_path):
    classifier_file(tmp_path / "classifiers" / "resnet34" / "model.pt")
    out, words = tmp_path / "out", ["--datalist", phantoms / "datalist.json", "--classifiers", tmp_path / "classifiers"]
    command = ["pseudo-label", *map(str, words), "--output", str(out), "--size", "64", "--device", "cpu"]
    assert main(command) == 0 and not reused(out)
    assert main(command) == 0 and len(reused(out)) == 5
    assert main([*command, "--threshold", "0.3"]) == 0 and not reused(out)
    classifier_file(tmp_path / "classifiers" / "resnet34" / "model.pt")
    assert main([*command, "--set", "gate=0"]) == 0 and not reused(out)
