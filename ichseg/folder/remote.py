"""Runs with scans or results in object storage: fetched, segmented in a folder of this machine, and sent back.

Object stores neither append nor lock nor rename, so a run works in a folder of its own here. What it knows of earlier
runs comes from the journal's pieces in the store; what it has done goes there a few scans at a time: what the journal
says first, then the outputs.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ichseg.bundle import given_values
from ichseg.errors import IchsegError
from ichseg.folder.configured import configured_runner
from ichseg.folder.parts import PAGE, PART_FILE, merge_parts
from ichseg.folder.remote_scans import fetch_scan, is_remote, list_remote
from ichseg.folder.results import Results
from ichseg.folder.status import Part
from ichseg.folder.store import AT_ONCE, Store, told
from ichseg.io.nifti import is_nifti
from ichseg.io.urls import REMOTE, is_url
from ichseg.progress import progress
from ichseg.provenance import file_hash

CHUNK = 16  # scans that are fetched, segmented and sent together
TABLES_S = 60.0  # between tables on the way
PIECE = re.compile(r"(journal(?:-\d+of\d+)?)-\d{8}T\d{6}-[0-9a-f]{8}-\d{6}\.piece")
TOLD = re.compile(r"results[^/]*\.jsonl|report[^/]*\.json")  # what status and merge read
# Sent when the run has ended, not with the scans.
TABLES = ("results*.csv", "results*.jsonl", "results*.parquet", "report*.json", "report*.html")


@dataclass
class Elsewhere:
    """An output folder in object storage: the journal asks it about files that are not here.

    Attributes:
        store: the folder.
        files: its objects, see :meth:`Store.files`.
        hashes: name -> version -> SHA-256 of what runs have sent, told by their journals.
        fresh: outputs that are written here and not sent yet.
    """

    store: Store
    files: dict[str, tuple[int, str]]
    hashes: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    fresh: list[str] = field(default_factory=list)

    def sha256(self, name: str) -> str:
        """Of an object; it is fetched only if no run has told under which version it was sent."""
        version = self.files[name][1]
        if version not in self.hashes[name]:
            found = told(f"{self.store.url}/{name}", lambda: self.store.sha256(name))
            if not version:
                return found
            self.hashes[name][version] = found
        return self.hashes[name][version]

    def has(self, name: str, kept: Mapping[str, Any]) -> bool:
        """True if an output is there as it was recorded."""
        return name in self.files and self.files[name][0] == kept["bytes"] and self.sha256(name) == kept["sha256"]

    def make_way(self, name: str, hashes: Container[str]) -> str | None:
        """Rename an object that no run has made; returns its new name, or None if nothing is in the way.

        Args:
            name: of the object.
            hashes: SHA-256 of what runs have recorded under this name.
        """
        now = told(f"{self.store.url}/{name}", lambda: self.store.info(name))  # somebody may edit it at any time
        if now is None:
            self.files.pop(name, None)
            return None
        self.files[name] = now
        if self.sha256(name) in hashes:
            return None
        number = 1
        while (kept := f"{name}.bak{number if number > 1 else ''}") in self.files:
            number += 1
        told(f"{self.store.url}/{name}", lambda: self.store.rename(name, kept))
        self.files[kept] = self.files.pop(name)
        return kept

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        if self.files.pop(name, None) is not None:
            told(f"{self.store.url}/{name}", lambda: self.store.remove(name))

    def send(self, folder: Path, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Send files of a folder, and remember what they hold; returns bytes and version of each."""

        def one(name: str) -> tuple[int, str]:
            made = told(f"{self.store.url}/{name}", lambda: self.store.send(folder / name, name))
            if made[1]:
                self.hashes[name][made[1]] = file_hash(folder / name)
            return made

        with ThreadPoolExecutor(AT_ONCE) as pool:
            sent = dict(zip(names, pool.map(one, names), strict=True))
        self.files |= sent
        return sent


class RemoteEngine:
    """Does the scans of a :class:`ichseg.folder.FolderRunner` that come from object storage or whose outputs go there.

    A few scans at a time are fetched, while those before them are segmented; their outputs are sent, and the files here
    are removed.

    Args:
        output: None: outputs stay in the runner's folder.
    """

    def __init__(self, output: Elsewhere | None = None) -> None:
        self.output, self._pieces = output, 0
        self.known = 0  # bytes of the journal that storage has
        self._tables_at = time.monotonic() + TABLES_S
        # Sorted by name, the pieces of all runs are in the order of time.
        self._name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"

    def __call__(self, runner: Any, todo: Sequence[int], take: Callable[[int, dict[str, Any]], None]) -> None:
        """See :class:`ichseg.folder.FolderRunner`."""
        data = runner.dataset.data
        chunks = [todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            coming = [pool.submit(fetch_scan, data[number]) for number in (chunks[0] if chunks else ())]
            for place, chunk in enumerate(chunks):
                for one in coming:
                    one.result()
                following = chunks[place + 1] if place + 1 < len(chunks) else ()
                coming = [pool.submit(fetch_scan, data[number]) for number in following]
                runner.do_here(chunk, take)
                for number in chunk:
                    if REMOTE in data[number]:
                        Path(data[number]["image"]).unlink(missing_ok=True)
                self._send(runner)
        self._send_journal(runner)

    def _send(self, runner: Any) -> None:
        """First what the journal says, then the outputs, then their versions.

        What is not there after all is made again; what nobody has told the version of is known by its hash.
        """
        if self.output is None:
            return
        self._send_journal(runner)
        names = [name for name in self.output.fresh if (runner.output_dir / name).is_file()]
        self.output.fresh.clear()
        sent = self.output.send(runner.output_dir, names)
        hashes = self.output.hashes
        told_versions = {name: (version, hashes[name][version]) for name, (_, version) in sent.items() if version}
        runner.journal.note_stored(told_versions)
        self._send_journal(runner)
        for name in names:
            (runner.output_dir / name).unlink()
        began = time.monotonic()
        if began > self._tables_at:  # they grow with the run: no more than a twentieth of its time
            self.output.send(runner.output_dir, [path.name for path in runner.output_dir.glob("results*.jsonl")])
            self._tables_at = time.monotonic() + max(TABLES_S, 20 * (time.monotonic() - began))

    def _send_journal(self, runner: Any) -> None:
        path = runner.journal.path
        if self.output is None or not path.is_file():
            return
        with path.open("rb") as stream:
            stream.seek(self.known)
            piece = stream.read()
        if not piece:
            return
        self._pieces += 1
        name = f"{path.stem}-{self._name}-{self._pieces:06d}.piece"
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(piece)
            self.output.send(Path(folder), [name])
        self.known += len(piece)

    def fetch_shown(self, runner: Any) -> None:
        """Files that the report shows and that are not here; parts of a folder have no report."""
        from ichseg.report.page import shown_files

        if self.output is not None and runner.journal.shard.count == 1:
            names = shown_files(runner.results.rows)
            _fetch_all(self.output, names, runner.output_dir, "fetching images for the report")

    def send_tables(self, runner: Any, ended: bool) -> None:
        """What is written at the end, or was until an interruption.

        Args:
            runner: that has written them.
            ended: and has come to its end: then tables of parts and pages of an earlier run go, as they do in a folder.
        """
        if self.output is None:
            return
        self._send_journal(runner)
        names = {path.name for pattern in TABLES for path in runner.output_dir.glob(pattern)}
        self.output.send(runner.output_dir, sorted(names))
        for name in list(self.output.files) if ended and runner.journal.shard.count == 1 else ():
            if (PAGE.fullmatch(name) or PART_FILE.fullmatch(name)) and name not in names:
                self.output.remove(name)


def run_remote(
    bundle: str,
    config: str,
    overrides: Mapping[str, Any],
    settings: Sequence[str],
    inputs: Sequence[str],
    output: str,
    work_dir: str | Path | None = None,
) -> None:
    """:func:`ichseg.bundle.run_bundle` of a config with a folder runner, with inputs or outputs in object storage.

    Args:
        bundle, config, overrides, settings: as there; ``dataset_dir`` and ``output_dir`` are set here.
        inputs: files and folders, all of them URLs or none.
        output: folder, or URL of one.
        work_dir: for scans and outputs while they are processed; None: where temporary files go.

    Raises:
        IchsegError: storage that cannot be reached, or inputs of both kinds.
    """
    kinds = {is_remote(one) for one in inputs}
    if len(kinds) > 1:
        raise IchsegError(f"{', '.join(inputs)}: files of this machine and of object storage; run them one by one")
    if work_dir is not None and not Path(work_dir).is_dir():
        raise IchsegError(f"--work-dir {work_dir}: no such folder")
    with tempfile.TemporaryDirectory(prefix="ichseg-", dir=work_dir) as folder:
        work = Path(folder).resolve()
        scans = list_remote(inputs, work / "scans") if kinds == {True} else None
        (work / "scans").mkdir()
        here = work / "masks" if is_url(output) else Path(output).resolve()
        elsewhere = None
        if is_url(output):
            elsewhere = Elsewhere(store := Store(output), store.files())
            here.mkdir()
            _fetch_all(elsewhere, _pieces(elsewhere.files), here, "fetching the journal", as_journal=True)
            _fetch_all(elsewhere, ["results.jsonl"] if all(map(is_nifti, inputs)) else [], here, "fetching the table")
        values = given_values(bundle, config, {**overrides, "output_dir": here}, settings)
        values["dataset_dir"] = work / "scans"
        if scans is None:
            paths = [Path(one).absolute() for one in inputs]
            values["dataset_dir"] = paths[0] if len(paths) == 1 else paths
        else:
            values["evaluator::keep_rows"] = all(map(is_nifti, inputs))  # as of files that are named one by one
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner = configured_runner(bundle, config, values, scans)
            runner.engine = engine = RemoteEngine(elsewhere)
            runner.journal.elsewhere, runner.told_folder = elsewhere, output if is_url(output) else ""
            if runner.journal.path.is_file():
                engine.known = runner.journal.path.stat().st_size
            summarize = runner.summarize

            def fetched(runner: Any) -> Path | None:
                if summarize.enabled:
                    engine.fetch_shown(runner)
                return summarize(runner)

            runner.summarize = fetched
            ended = False
            try:
                runner.run()
                ended = True
            finally:
                engine.send_tables(runner, ended)
            runner.exit_if_failed()


@contextmanager
def brought_here(url: str) -> Iterator[tuple[Path, Elsewhere]]:
    """The tables and journals of an output folder in object storage, in a folder here.

    Yields:
        the folder, gone afterward; and the one in storage.
    """
    with tempfile.TemporaryDirectory(prefix="ichseg-") as folder:
        here, elsewhere = Path(folder), Elsewhere(store := Store(url), store.files())
        tables = [name for name in elsewhere.files if TOLD.fullmatch(name)]
        _fetch_all(elsewhere, tables, here, "fetching tables")
        _fetch_all(elsewhere, _pieces(elsewhere.files), here, "fetching the journal", as_journal=True)
        try:
            yield here, elsewhere
        except IchsegError as error:
            raise IchsegError(str(error).replace(str(here), url)) from None


def merge_remote(url: str, parquet: bool = False) -> tuple[Results, list[Part]]:
    """:func:`ichseg.folder.merge_parts` of an output folder in object storage, and its report."""
    from ichseg.report import merge_report
    from ichseg.report.page import shown_files

    with brought_here(url) as (here, elsewhere):
        results, unfinished = merge_parts(here)
        _fetch_all(elsewhere, shown_files(results.rows), here, "fetching images for the report")
        merge_report(here, results)
        if parquet:
            results.write_parquet()
        # Not the tables of parts: they may have grown meanwhile.
        names = ["results.csv", "results.jsonl", "report.json", *(["results.parquet"] if parquet else [])]
        elsewhere.send(here, [*names, *sorted(path.name for path in here.glob("report*.html"))])
    return results, unfinished


def _pieces(files: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in files if PIECE.fullmatch(name))


def _fetch_all(elsewhere: Elsewhere, names: Sequence[str], folder: Path, what: str, as_journal: bool = False) -> None:
    """Objects as files of the same names; pieces of a journal as one file under the journal's name."""
    store = elsewhere.store
    wanted = [name for name in names if name in elsewhere.files and not (folder / name).is_file()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [pool.submit(told, f"{store.url}/{n}", partial(store.fetch, n, folder / n)) for n in wanted]
        for job in progress(jobs, what, leave=False) if jobs else ():
            job.result()
    for name in wanted if as_journal else ():
        journal = folder / f"{PIECE.fullmatch(name)[1]}.jsonl"  # type: ignore[index]
        with journal.open("ab") as stream:
            stream.write((folder / name).read_bytes())
        (folder / name).unlink()
        if changed := store.changed(name):
            os.utime(journal, (changed, changed))
