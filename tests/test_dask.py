"""Folders on the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import forked
import pytest

from ichseg.cli import main
from ichseg.folder import Journal

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.slow
OPTIONS = ("--device", "cpu", "--set", "size=64")


@pytest.fixture(scope="module")
def scans(phantoms, tmp_path_factory) -> Path:
    """Ten scans in two folders, one of them broken, and a mask that is none of ours."""
    folder = tmp_path_factory.mktemp("dask") / "scans"
    for place in ("a", "b"):
        (folder / place).mkdir(parents=True)
        for path in sorted((phantoms / "images").glob("*.nii.gz")):
            (folder / place / path.name).write_bytes(path.read_bytes())
    (folder / "a" / "phantom_000.nii.gz").write_bytes(b"no scan")
    return folder


@pytest.fixture(autouse=True)
def quick_workers():
    """Processes forked from one that has imported torch and MONAI."""
    import dask

    forked.start_server()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


@pytest.fixture(scope="module")
def here(scans, tmp_path_factory) -> Path:
    """Masks of a run in one process."""
    out = tmp_path_factory.mktemp("here") / "out"
    assert main(["segment", str(scans), str(out), *OPTIONS]) == 1
    return out


def same(here: Path, there: Path) -> None:
    """Masks, pieces of the report and rows are the same; every scan has one row."""
    tables = []
    for folder in (here, there):
        rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        tables.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    assert tables[0] == tables[1]
    kept = [p for p in here.rglob("*") if p.suffix in (".gz", ".json") and p.name != "report.json"]
    assert len(kept) > 9
    for path in kept:
        assert path.read_bytes() == (there / path.relative_to(here)).read_bytes()
    assert not list(there.rglob("*.bak*")), "what a lost worker wrote is no stranger's"


def workers_of(out: Path) -> list[int]:
    """Process numbers of workers that have begun."""
    return [int(path.stem.rsplit("-", 1)[1]) for path in out.glob("journal-worker-*.jsonl")]


def kill_workers(out: Path, stop: threading.Event, most: int) -> list[int]:
    """Kill a worker now and then, each after it has begun a scan; returns whom."""
    killed: list[int] = []
    while not stop.is_set() and len(killed) < most:
        for path in out.glob("journal-worker-*.jsonl"):
            number = int(path.stem.rsplit("-", 1)[1])
            if number not in killed and '"begun"' in path.read_text():
                killed.append(number)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
                break
        stop.wait(0.2)
    return killed


def test_the_same_as_in_one_process_though_workers_die(scans, here, tmp_path):
    out, stop, killed = tmp_path / "out", threading.Event(), []
    killer = threading.Thread(target=lambda: killed.extend(kill_workers(out, stop, 2)))
    killer.start()
    try:
        assert main(["segment", str(scans), str(out), *OPTIONS, "--engine", "dask", "--workers", "2"]) == 1
    finally:
        stop.set()
        killer.join()
    assert killed and set(workers_of(out)) > set(killed)
    same(here, out)
    # A later run here believes what the workers have written down.
    assert main(["segment", str(scans), str(out), *OPTIONS]) == 1
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert sum(bool(row.get("reused")) for row in rows) == len(rows) - 1
    # A mask that someone has edited is kept, wherever the new one is made.
    (out / "b" / "phantom_001_ich.nii.gz").write_bytes(b"edited")
    assert main(["segment", str(scans), str(out), *OPTIONS, "--engine", "dask", "--workers", "1"]) == 1
    assert (out / "b" / "phantom_001_ich.nii.gz.bak").read_bytes() == b"edited"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_scheduler_that_starts_late_and_starts_again(scans, here, tmp_path):
    out, port = tmp_path / "out", free_port()
    address, started = f"tcp://127.0.0.1:{port}", []

    def start(*words: str) -> BaseProcess:
        started.append(forked.start_module(["distributed.cli." + words[0], *words[1:]], tmp_path))
        return started[-1]

    def scheduler() -> BaseProcess:
        return start("dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--dashboard-address", ":0")

    def worker() -> None:
        start("dask_worker", address, "--nthreads", "1", "--death-timeout", "200", "--no-dashboard", "--no-nanny")

    def restart() -> None:
        time.sleep(1.0)
        first = scheduler()
        worker()
        while not any('"case"' in path.read_text() for path in out.glob("journal-worker-*.jsonl")):
            time.sleep(0.2)
        first.kill()
        first.join()
        scheduler()
        worker()

    helper = threading.Thread(target=restart)
    helper.start()
    try:
        words = ["--engine", "dask", "--scheduler", address]
        assert main(["segment", str(scans), str(out), *OPTIONS, *words]) == 1
    finally:
        helper.join()
        for process in started:
            process.kill()
            process.join()
    same(here, out)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--scheduler", "tcp://127.0.0.1:1"], "--scheduler needs --engine dask"),
        (["--workers", "2"], "--workers needs --engine dask"),
        (["--engine", "dask", "--shard", "1/2"], "both divide the work"),
        (["--engine", "dask", "--workers", "0"], "workers must be at least 1"),
        (["--engine", "dask", "--workers", "2", "--scheduler", "tcp://127.0.0.1:1"], "--scheduler has its own workers"),
        (["--engine", "dask", "--scheduler", "nowhere at all"], "no Dask scheduler at nowhere at all"),
    ],
)
def test_wrong_usage(words, told, scans, tmp_path, capsys, monkeypatch):
    assert main(["segment", str(scans), str(tmp_path / "out"), *OPTIONS, *words]) == 2
    assert told in capsys.readouterr().err


def test_nobody_answers(scans, tmp_path, capsys, caplog, monkeypatch):
    from ichseg.folder import dask_engine

    monkeypatch.setattr(dask_engine, "CONNECT_S", 1.0)
    monkeypatch.setattr(dask_engine, "LOOK_S", 0.1)
    monkeypatch.setattr(dask_engine, "run_on_dask", _impatient(dask_engine.run_on_dask, 1.5))
    words = ["--engine", "dask", "--scheduler", f"tcp://127.0.0.1:{free_port()}"]
    with caplog.at_level("INFO", logger="ichseg"):
        assert main(["segment", str(scans), str(tmp_path / "out"), *OPTIONS, *words]) == 2
    said = capsys.readouterr().err
    assert "no Dask scheduler at tcp://127.0.0.1" in said
    assert caplog.text.count("waiting up to 2 s") == 1
    with Journal(tmp_path / "out").opened():
        pass  # the folder is free again


def _impatient(run, patience_s=0.0):
    return lambda *words, **engine: run(*words, **engine, patience_s=patience_s)


def test_a_share_that_is_gone_for_a_while(scans, tmp_path):
    from ichseg.folder.dask_engine import Work, do_work

    share, gone = tmp_path / "share", tmp_path / "gone"
    gone.mkdir()
    threading.Timer(1.0, lambda: gone.rename(share)).start()
    from ichseg.folder import dask_engine

    work = Work("b", "c", {}, "r", (str(share),))
    began = time.monotonic()

    class Runner:
        journal = type("J", (), {"know": staticmethod(lambda known: None)})

        def do(self, cases, inputs):
            assert share.is_dir()
            return [{"status": "ok"} for _ in cases]

    dask_engine._RUNNERS[work.key] = Runner()
    try:
        assert do_work(work, [{}], [], [], 30.0) == [{"status": "ok"}]
    finally:
        dask_engine._RUNNERS.clear()
    assert time.monotonic() - began >= 0.9
