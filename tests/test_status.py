"""Parts of job arrays, and how far the runs of a folder have come."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ichseg.cli import main
from ichseg.errors import IchsegError
from ichseg.folder import Journal, Results, Shard
from ichseg.folder.status import read_status, status_table

SLURM = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "8",
         "SLURM_ARRAY_TASK_COUNT": "8"}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "environment", "number", "count"),
    [
        ("auto", SLURM, 3, 8),
        # Two of 16 jobs are run again: their own numbers count, not what is left of the array.
        ("auto/16", {**SLURM, "SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "2"}, 9, 16),
        ("auto", {"SGE_TASK_ID": "2", "SGE_TASK_FIRST": "1", "SGE_TASK_LAST": "5"}, 2, 5),
        ("auto", {"LSB_JOBINDEX": "5", "LSB_JOBINDEX_END": "5"}, 5, 5),
        ("auto", {"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "4"}, 1, 4),
        ("auto", {"BATCH_TASK_INDEX": "3", "BATCH_TASK_COUNT": "4"}, 4, 4),
        ("auto/3", {"JOB_COMPLETION_INDEX": "2"}, 3, 3),
        (" auto / 3 ", {"PBS_ARRAY_INDEX": "1"}, 1, 3),
    ],
)
def test_place_in_a_job_array(text, environment, number, count):
    assert Shard.parse(text, environment) == Shard(number, count)


@pytest.mark.parametrize(
    ("text", "environment", "told"),
    [
        ("auto", {}, "not in a job array"),
        ("auto", {"SGE_TASK_ID": "undefined"}, "not in a job array"),
        ("auto", {"JOB_COMPLETION_INDEX": "2"}, "Kubernetes does not say how many jobs there are; write auto/N"),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_COUNT": "3"}, "the Slurm array has gaps"),
        ("auto/3", {"JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETION_INDEX is 3, which is none of 3 parts"),
        ("auto/4", {**SLURM, "SLURM_ARRAY_TASK_ID": "0"}, "none of 4 parts"),
        ("auto/x", SLURM, "write K/N"),
        (
            "auto",
            {**SLURM, "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "7"},
            "begins with 0; number arrays from 1",
        ),
        (
            "auto",
            {**SLURM, "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "3", "SLURM_ARRAY_TASK_COUNT": "1"},
            "begins with 3; number arrays from 1, and write auto/N",
        ),
    ],
)
def test_no_place_in_a_job_array(text, environment, told):
    with pytest.raises(IchsegError, match=told):
        Shard.parse(text, environment)


def test_the_environment_is_asked(monkeypatch, tmp_path):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert Journal(tmp_path, shard="auto").path.name == "journal-3of8.jsonl"


def a_row(case: str, status: str = "ok", **more: object) -> dict:
    return {"case": case, "file": f"{case}.nii.gz", "status": status, "volume_ml": 0.0, "lesions": 0, **more}


def end(folder: Path, run: str, suffix: str = "") -> None:
    told = {"run": run, "finished": "2999-01-01T00:00:00+00:00", "seconds": 1.0, "reused": 0, "device": "cpu",
            "ichseg": "0", "weights": {}}  # fmt: skip
    (folder / f"report{suffix}.json").write_text(json.dumps(told))


def test_a_folder_while_and_after_it_runs(tmp_path, capsys):
    pytest.importorskip("fcntl")
    with pytest.raises(IchsegError, match="no run of 'ichseg segment' has begun here"):
        read_status(tmp_path)
    journal = Journal(tmp_path)
    with journal.opened({}):
        assert [part.state for part in read_status(tmp_path)] == ["checking"]
        journal.announce(5, 4)
        results = Results(tmp_path)
        results.add(a_row("a", reused=True))
        results.add(a_row("b"))
        results.add(a_row("c", "failed", message="torn"))
        results.write()
        os.utime(tmp_path / "results.jsonl", (9e9, 9e9))  # long after its start
        (part,) = read_status(tmp_path)
        assert (part.name, part.state, part.scans, part.missing) == ("all", "running", 5, 2)
        assert part.done == {"failed": 1, "ok": 2} and part.failed == ["c.nii.gz"]
        # Two of four were done anew, so as long again; whole seconds in the journal.
        from datetime import datetime

        assert part.left_s == pytest.approx(9e9 - datetime.fromisoformat(part.started).timestamp(), rel=1e-6)
        assert main(["status", str(tmp_path)]) == 1
        assert "running" in (told := capsys.readouterr().out) and "failed: c.nii.gz" in told
    assert read_status(tmp_path)[0].state == "interrupted"
    end(tmp_path, journal.run)
    (part,) = read_status(tmp_path)
    assert (part.state, part.missing, part.left_s) == ("finished", 0, None)
    with Journal(tmp_path).opened({"another": 1}):
        assert read_status(tmp_path)[0].state == "checking"


def test_parts_of_a_folder(tmp_path, capsys):
    for number, cases in ((1, "ab"), (3, "c")):
        journal = Journal(tmp_path, shard=f"{number}/3")
        with journal.opened({}):
            journal.announce(2, 2)
            results = Results(tmp_path, name=f"results-{number}of3")
            for case in cases:
                results.add(a_row(case))
            results.write()
    end(tmp_path, journal.run, "-1of3")
    parts = read_status(tmp_path)
    assert [(p.name, p.state, p.missing) for p in parts] == [
        ("1/3", "finished", 0), ("2/3", "not started", None), ("3/3", "interrupted", 1)]  # fmt: skip
    assert status_table(parts).splitlines()[-1].split() == ["all", "3", "0", "0", "0"]
    assert main(["status", str(tmp_path), "--json"]) == 1
    assert [one["missing"] for one in json.loads(capsys.readouterr().out)] == [0, None, 1]
    # Joined before all are done, and again when they are.
    assert main(["merge", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "3 ok" in told.out
    assert (
        "part 2/3 has not been started" in told.err
        and "part 3/3 is interrupted; 1 of its scans are missing" in told.err
    )
    assert [part.name for part in read_status(tmp_path)] == ["1/3", "2/3", "3/3"], "the joined table is no run"
    with Journal(tmp_path).opened({}) as whole:
        pass
    end(tmp_path, whole.run)
    Results(tmp_path).write()
    for path in tmp_path.glob("journal-*.jsonl"):
        path.write_text(path.read_text().replace('"started": "20', '"started": "19'))
    assert [part.name for part in read_status(tmp_path)] == ["all"], "what ran last"


def test_what_is_finished_ends_with_0(tmp_path, capsys):
    journal = Journal(tmp_path)
    with journal.opened({}):
        journal.announce(0, 0)
        Results(tmp_path).write()
    end(tmp_path, journal.run)
    assert main(["status", str(tmp_path)]) == 0 and "finished" in capsys.readouterr().out
