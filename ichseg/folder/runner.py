"""The folder runner: every scan through the network, one row per scan, whatever happens to the others."""

from __future__ import annotations

import logging
import os
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ichseg.errors import NO_ROOM, SOME_FAILED, ScanError, Stopped, first_cause, one_line
from ichseg.folder.journal import Journal, kept_aside
from ichseg.folder.memory import return_freed_memory, return_small_blocks
from ichseg.folder.ondisk import Table
from ichseg.folder.parts import remove_parts, rows_of_all
from ichseg.folder.results import NOTE, SCORES, Results, Rows, parquet_package, read_rows
from ichseg.folder.scans import ScanDataset
from ichseg.folder.store import is_there
from ichseg.folder.threads import run_in_turn, run_overlapped
from ichseg.io import slice_axis
from ichseg.io.folder import check_output_folder
from ichseg.io.urls import DICOM, is_url, source_of
from ichseg.metrics import measure_mask
from ichseg.progress import Progress, never_stop_printing, progress
from ichseg.provenance import describe, file_hash, network_hash
from ichseg.transforms.saver import BEFORE_WRITE
from ichseg.transforms.volumes import remarks_of

logger = logging.getLogger(__name__)

Item = dict[str, Any]
Row = dict[str, Any]


class FolderRunner:
    """Stands where MONAI bundles have their evaluator: ``run()`` goes through the data set.

    Per scan: preprocessing (in the data set) -> ``inferer(image, network)`` under ``pred`` -> postprocessing,
    which saves the mask. Then the scan is written into the journal and into ``results.csv`` and ``results.jsonl``.

    Args:
        dataset: gives one item per scan, or ``{"failed": reason}``.
        network: what the inferer calls.
        inferer: a MONAI inferer.
        postprocessing: transforms from ``pred`` to the saved mask; the mask stays under ``pred``, and files it wrote
            are named under ``saved``.
        output_dir: where the results go.
        device: where the network runs.
        journal: knows which cases an earlier run has done; None does every case.
        keep_rows: rows of other scans that the output folder's table has already stay in it: for runs that name files
            one by one. A scan with the name of another one's output is then refused.
        overlap: read the next scan and postprocess the last one in threads while the network runs. Not for
            postprocessing that uses the network.
        summarize: called with the runner after the last scan, such as a report; returns what to look at.
        engine: called with the runner, the numbers of the scans to be done, and a function that takes a scan's number
            and its row; does the scans elsewhere, see :class:`ichseg.folder.dask_engine.DaskEngine`. None does them
            here.
        parquet: write ``results.parquet`` at the end as well.
    """

    def __init__(
        self,
        dataset: ScanDataset,
        network: torch.nn.Module,
        inferer: Callable[..., torch.Tensor],
        postprocessing: Callable[[Item], Item],
        output_dir: str | Path,
        device: str | torch.device = "cpu",
        journal: Journal | None = None,
        overlap: bool = False,
        keep_rows: bool = False,
        summarize: Callable[[FolderRunner], Path | None] | None = None,
        engine: Callable[[FolderRunner, Sequence[int], Callable[[int, Row], None]], None] | None = None,
        parquet: bool = False,
    ) -> None:
        self.dataset, self.inferer, self.postprocessing = dataset, inferer, postprocessing
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.output_dir, self.journal, self.overlap, self.summarize = Path(output_dir), journal, overlap, summarize
        self.seconds, self.keep_rows, self.engine, self.parquet = 0.0, keep_rows, engine, parquet
        self.results = Results(self.output_dir)
        self.told_folder = ""  # where people find the results, if not in output_dir
        self._inputs = Table()
        self._kept: list[Row] = []

    def run(self) -> Rows:
        """Run every scan; returns the rows of the results, see :class:`ichseg.folder.Results`.

        Raises:
            IchsegError: the output folder cannot be written to; what was done until then is kept.
        """
        started = time.perf_counter()
        check_output_folder(self.output_dir)
        if self.parquet:
            parquet_package(self.output_dir)  # before the work, not after it
        never_stop_printing()
        return_freed_memory()
        return_small_blocks()  # of imports and of reading the weights
        try:
            if self.journal is None:
                self._run()
            else:
                with self.journal.opened(self.settings(), network_hash(self.network)):
                    self._run()
            self.seconds = time.perf_counter() - started
            if self.parquet:
                self.results.write_parquet()
            else:
                self.results.parquet_path.unlink(missing_ok=True)  # of an earlier run
            page = None if self.summarize is None else self.summarize(self)
        except OSError as error:
            raise _stopped(self.output_dir, error) from None
        logger.info("%s -> %s", self.results.summary(), self._told(self.results.path))
        if page is not None:
            logger.info("report: %s", self._told(page))
        elif self.journal is not None and self.journal.shard.count > 1:
            logger.info("progress of all parts: ichseg status %s; to merge their tables: ichseg merge %s",
                        *2 * [self.told_folder or self.output_dir])  # fmt: skip
        return self.results.rows

    def _told(self, path: Path) -> str:
        return f"{self.told_folder.rstrip('/')}/{path.name}" if self.told_folder else str(path)

    def settings(self) -> dict[str, Any]:
        """What the outputs depend on besides the network: the steps as they were built, by config or by overrides."""
        steps = {"preprocessing": self.dataset.transform, "inferer": self.inferer}
        return describe({**steps, "postprocessing": self.postprocessing})

    @property
    def failures(self) -> int:
        """How many scans of this run failed."""
        return self.results.count("failed") - sum(row["status"] == "failed" for row in self._kept)

    def exit_if_failed(self) -> None:
        """End the process with its exit code if any scan failed; the last step of a bundle run."""
        if self.failures:
            raise SystemExit(SOME_FAILED)

    def _run(self) -> None:
        mine = array("q", (n for n, case in enumerate(self.dataset.data) if self._is_mine(case)))
        suffix = "" if self.journal is None else self.journal.shard.suffix
        self._inputs = Table(_path(case) for case in self.dataset.data if "skip" not in case)
        order: Iterable[str] = (source_of(case) for case in self.dataset.data if self._is_mine(case))
        if self.keep_rows:
            named = list(order)
            self._kept = self._rows_of_others(named, suffix)
            order = sorted([*named, *(row["file"] for row in self._kept)]) if self._kept else named
        self.results = Results(self.output_dir, order, f"results{suffix}")
        for row in self._kept:
            self.results.add({**row, "reused": True}, write=False)
        todo = self._sort_out(mine)
        if self.journal is not None:
            self.journal.announce(len(mine), len(todo))
        with Progress(len(todo), "scans") as shown:

            def take(number: int, row: Row) -> None:
                self._add(self.dataset.data[number], row)
                shown.update()

            (self.engine or FolderRunner.do_here)(self, todo, take)
        self.results.write()
        if not suffix:
            remove_parts(self.output_dir)
        if self.journal is not None and not self.keep_rows and (gone := self.journal.other_cases(self.dataset.data)):
            logger.info("%s: also contains masks of %d other scan%s, such as %s; not in the table",
                        self.told_folder or self.output_dir, len(gone), "s" * (len(gone) > 1), gone[0])  # fmt: skip

    def _is_mine(self, case: Item) -> bool:
        return self.journal is None or self.journal.shard.holds(str(case["case"]))

    def do_here(self, todo: Sequence[int], take: Callable[[int, Row], None]) -> None:
        """Do some scans in this process."""
        if self.journal is not None:
            self.dataset.make_way = self.journal.make_way
        run = run_overlapped if self.overlap else run_in_turn
        run(todo, self._read, self._work, lambda work: take(work["number"], self._row(work)))

    def do(self, cases: list[Item], inputs: Iterable[str] = ()) -> list[Row]:
        """Do scans of another process's run, whose journal is that of this one as well; returns their rows.

        Args:
            cases: data dictionaries.
            inputs: files that must not be overwritten.
        """
        self.dataset.data = cases
        self._inputs = Table(chain(((path, None) for path in inputs), map(_path, cases)))
        rows: dict[int, Row] = {}
        self.do_here(list(range(len(cases))), rows.__setitem__)
        return [rows[number] for number in range(len(cases))]

    def inputs_below(self, case: str) -> list[str]:
        """Scans that are where outputs of a case may go, in a run whose output folder is its input folder too."""
        start = os.path.join(os.path.realpath(self.output_dir), case)  # noqa: PTH118 (names with dots keep them)
        return self._inputs.starting(start)

    def _rows_of_others(self, files: list[str], suffix: str) -> list[Row]:
        """Rows of the folder's table, or of its parts, that are of none of these files."""
        own = {os.path.realpath(file): file for file in files}
        sources = {str(case["case"]): source_of(case) for case in self.dataset.data}
        kept = []
        for row in read_rows(self.output_dir / f"results{suffix}.jsonl") if suffix else rows_of_all(self.output_dir):
            if os.path.realpath(row["file"]) not in own and not _replaces(sources.get(row["case"]), row):
                kept.append(row)
        return kept

    def _sort_out(self, mine: Sequence[int]) -> Sequence[int]:
        """Give their rows to the cases that need no work; the others are to be done."""
        todo, owner = array("q"), Table()
        taken = {row["case"]: row["file"] for row in self._kept if row["status"] != "failed"}
        for number in progress(mine, "checking existing results", leave=False):
            case = self.dataset.data[number]
            name, image = case["case"], source_of(case)
            if "skip" in case:
                self._add(case, {"status": "skipped", "stage": "list", "message": case["skip"]})
            # a.nii and a.nii.gz would write the same output: the second must not replace the first.
            elif name in owner:
                self._add(case, _failed("list", f"same output name as {owner.get(name)}; rename one"))
            elif name in taken:
                self._add(case, _failed("list", f"same output name as {taken[name]}; choose another output folder"))
            else:
                owner[name] = image
                row = self.journal.done(case) if self.journal is not None else None
                if row is None:
                    todo.append(number)
                else:
                    self._add(case, {**row, "reused": True})
        return todo

    def _read(self, number: int) -> Item:
        case = self.dataset.data[number]
        begun = time.perf_counter()
        identity = None
        if self.journal is not None:
            try:
                identity = self.journal.identity(case)  # before reading: a scan that changes meanwhile is done again
            except OSError:
                identity = None  # the reader says what is wrong
        return {"number": number, "identity": identity, "begun": begun, "item": self.dataset[number]}

    def _work(self, work: Item) -> Item:
        item = work["item"]
        if "failed" not in item and "skipped" not in item:
            try:
                with torch.no_grad():
                    work["pred"] = self.inferer(item["image"][None].to(self.device), self.network)[0].cpu()
            except Exception as error:  # one scan's failure is its own row
                work["row"] = self._failure("network", work, error)
            if self.device.type == "cpu":
                return_small_blocks()
        return work

    def _row(self, work: Item) -> Row:
        """What a scan has come to, after its outputs are in place and the journal knows them."""
        case, item = self.dataset.data[work["number"]], work["item"]
        unread = _failed("read", item["failed"]) if "failed" in item else None
        if "skipped" in item:
            unread = {"status": "skipped", "stage": "read", "message": _without_path(item["skipped"], case)}
        row = unread or work.get("row") or self._mask(case, work)
        row["seconds"] = round(time.perf_counter() - work["begun"], 2)
        if self.journal is not None:
            self._write_down(self.journal, case, work, row)
        return row

    def _write_down(self, journal: Journal, case: Item, work: Item, row: Row) -> None:
        """What a scan came to goes into the journal; what no longer holds is taken away."""
        identity = work["identity"]
        if row["status"] in ("ok", "flagged") and identity is not None:
            made = [case["image"]] if DICOM in case else []
            journal.record(case, identity, row, [Path(path) for path in (*made, *work["item"].get("saved", ()))])
        elif row["status"] != "ok" and identity is not None:
            if removed := journal.withdraw(case, identity):
                row["message"] += f"; removed outputs of a different scan with this name: {', '.join(removed)}"
        elif row["status"] == "failed" and journal.knows(str(case["case"])):
            row["message"] += "; outputs of an earlier run are kept"

    def _mask(self, case: Item, work: Item) -> Row:
        item = work["item"]
        moved: list[str] = []
        try:
            item[BEFORE_WRITE] = partial(self._make_way, case, moved)
            with torch.no_grad():
                item["pred"] = work.pop("pred")
                work["item"] = item = self.postprocessing(item)
            mask = item["pred"]
            measured = item.get("measured")
            if measured is None:
                affine = np.asarray(mask.affine)
                measured = measure_mask(np.asarray(mask[0]), affine, slice_axis(affine))
        except Exception as error:
            cause = first_cause(error)
            if isinstance(cause, OSError) and cause.errno in NO_ROOM:
                raise cause from None
            return self._failure("write" if isinstance(cause, OSError) else "mask", work, error)
        flags = [*remarks_of(item["image"]), *item.get("flags", [])]
        flags += map(kept_aside, moved)
        said = [*flags, *(f"{NOTE}{note}" for note in remarks_of(item["image"], "notes"))]
        scored = {name: item[name] for name in SCORES if name in item}
        return {"status": "flagged" if flags else "ok", **scored, **measured, "message": "; ".join(said)}

    def _make_way(self, case: Item, moved: list[str], path: Path) -> None:
        """Before an output is written: nothing that is not a run's own is lost."""
        if os.path.realpath(path) in self._inputs:
            raise ScanError(
                f"{case['image']}: its output would overwrite {path}, an input scan; choose another output folder"
            )
        if self.journal is not None and (name := self.journal.make_way(path)):
            moved.append(name)

    def _failure(self, stage: str, work: Item, error: Exception) -> Row:
        path = str(self.dataset.data[work["number"]]["image"])
        logger.debug("%s", path, exc_info=error)
        message = one_line(error)
        if isinstance(first_cause(error), torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            message = "out of GPU memory; use a smaller --batch-size or --device cpu"
        return _failed(stage, message)

    def _add(self, case: Item, row: Row) -> None:
        file, message = source_of(case), row.get("message", "")
        row = {"case": case["case"], **row, "file": file}
        if row["status"] == "failed":
            why = _without_path(message, case)
            row["message"] = f"{Path(file).name}: {why}"  # where it lies stands under "file"
            tqdm.write(f"failed: {file}: {why}")
        self.results.add(row)


def _path(case: Item) -> tuple[str, None]:
    return os.path.realpath(str(case["image"])), None


def _without_path(message: str, case: Item) -> str:
    return message.removeprefix(f"{case['image']}: ")


def _replaces(source: str | None, row: Row) -> bool:
    """True if a scan of now takes the place of an earlier row's: the row's was not done, has gone, or is the same."""
    if source is None:
        return False
    if row["status"] == "failed":
        return True
    if is_url(row["file"]):
        return not is_there(row["file"])
    earlier, now = Path(row["file"]), Path(source)
    if not earlier.exists() or (now.is_dir() and earlier.is_dir()):
        return not earlier.exists()
    return earlier.is_file() and now.is_file() and file_hash(earlier) == file_hash(now)


def _failed(stage: str, message: str) -> Row:
    return {"status": "failed", "stage": stage, "message": message}


def _stopped(folder: Path, error: OSError) -> Stopped:
    where = error.filename or folder
    return Stopped(f"{where}: {error.strerror or error}; stopped. Finished scans are kept; fix this and rerun "
                       "the same command to resume")  # fmt: skip
