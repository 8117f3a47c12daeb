"""Runs with scans or results in object storage: fetched, segmented in a folder of this machine, and sent back.

Object stores neither append nor lock nor rename, so a run works in a folder of its own here. What it knows of earlier
runs comes from the journal's pieces in the store; what it has done goes there a few scans at a time: what the journal
says first, then the outputs.
"""

from __future__ import annotations

import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ichseg.bundle import given_values
from ichseg.errors import IchsegError
from ichseg.folder.configured import configured_runner
from ichseg.folder.elsewhere import Elsewhere, fetch_all, pieces
from ichseg.folder.parts import PAGE, PART_FILE
from ichseg.folder.remote_scans import fetch_scan, is_remote, list_remote
from ichseg.folder.store import AT_ONCE, Store
from ichseg.io.nifti import is_nifti
from ichseg.io.urls import REMOTE, is_url

CHUNK = 16  # scans that are fetched, segmented and sent together
TABLES_S = 60.0  # between tables on the way
# Sent when the run has ended, not with the scans.
TABLES = ("results*.csv", "results*.jsonl", "results*.parquet", "report*.json", "report*.html")


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
            fetch_all(self.output, names, runner.output_dir, "fetching images for the report")

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
        raise IchsegError(f"{', '.join(inputs)}: local files and object storage cannot be mixed; run them separately")
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
            fetch_all(elsewhere, pieces(elsewhere.files), here, "fetching the journal", as_journal=True)
            fetch_all(elsewhere, ["results.jsonl"] if all(map(is_nifti, inputs)) else [], here, "fetching the table")
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
