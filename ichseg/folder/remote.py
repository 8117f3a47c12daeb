"""Scans and results in object storage: fetched, segmented in a folder of this machine, and sent back.

Object stores neither append nor lock nor rename, so a run works in a folder of its own here. What it knows of earlier
runs comes from the journal's pieces in the store; what it has done goes there a few scans at a time: outputs first,
then the piece of the journal that tells of them.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from ichseg.bundle import BundleParts, given_values
from ichseg.errors import IchsegError, one_line
from ichseg.folder.manifest import ENDINGS, is_manifest, names_in, names_urls
from ichseg.folder.parts import PART_FILE, merge_parts
from ichseg.folder.results import Results
from ichseg.folder.status import Part
from ichseg.io.folder import MASK_POSTFIXES, PROBABILITY_POSTFIX
from ichseg.io.nifti import is_nifti, scan_name
from ichseg.io.urls import REMOTE, is_url
from ichseg.progress import progress

logger = logging.getLogger(__name__)

CHUNK = 16  # scans that are fetched, segmented and sent together
PIECE = re.compile(r"(journal(?:-\d+of\d+)?)-\d{8}T\d{6}-[0-9a-f]{8}-\d{6}\.piece")
# Under which names the kinds of storage tell the version of an object, those that listings leave out or change last.
VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "generation", "LastModified", "last_modified", "created",
            "modified", "mtime")  # fmt: skip
TABLES_S = 60.0  # between tables on the way
TRIES, WAIT_S = 3, 2.0
AT_ONCE = 8  # transfers
# Sent when the run has ended, not with the scans.
TABLES = ("results*.csv", "results*.jsonl", "results*.parquet", "report*.json", "report*.html")


class Store:
    """A folder in object storage.

    Args:
        url: of the folder, or of an object, which then has the name "".

    Raises:
        IchsegError: fsspec or the package for this kind of storage is not installed, or it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise IchsegError(f'{url}: object storage needs packages: pip install "ichseg[remote]"') from None
        try:
            self.fs, self.root = fsspec.core.url_to_fs(url.rstrip("/"))
        except (ImportError, ValueError) as error:
            raise IchsegError(f"{url}: {one_line(error)}") from None
        self.url = url.rstrip("/")

    def files(self) -> dict[str, tuple[int, str]]:
        """Every object below, by its name relative to the folder: bytes and version. Nothing there: none."""
        self.fs.invalidate_cache()
        found = _told(self.url, lambda: self.fs.find(self.root, withdirs=False, detail=True))
        below = self.root.rstrip("/") + "/"  # this alone is an object that stands for the folder
        return {
            path[len(below) :]: _identity(info)
            for path, info in found.items()
            if path.startswith(below) and path != below
        }

    def info(self, name: str = "") -> tuple[int, str] | None:
        """Bytes and version of an object; None if there is none."""
        self.fs.invalidate_cache()
        try:
            info = self.fs.info(self.path(name))
        except FileNotFoundError:
            return None
        return None if info.get("type") == "directory" else _identity(info)

    def fetch(self, name: str, file: Path) -> None:
        """An object as a file, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.part")
        _again(lambda: self.fs.get_file(self.path(name), str(unfinished)))
        unfinished.replace(file)

    def send(self, file: Path, name: str) -> tuple[int, str]:
        """A file as an object; returns its bytes and version."""
        _again(lambda: self.fs.put_file(str(file), self.path(name)))
        made = self.info(name)
        if made is None or made[0] != file.stat().st_size:
            raise IchsegError(f"{self.url}/{name}: was written, but is not there whole")
        return made

    def rename(self, name: str, new: str) -> None:
        """Another name for an object."""
        self.fs.mv(self.path(name), self.path(new))

    def changed(self, name: str) -> float | None:
        """When an object was written, in seconds; None where storage does not say."""
        try:
            return self.fs.modified(self.path(name)).timestamp()
        except (NotImplementedError, FileNotFoundError):
            return None

    def path(self, name: str) -> str:
        """The object's name as fsspec has it."""
        return posixpath.join(self.root, name) if name else self.root


def _identity(info: Mapping[str, Any]) -> tuple[int, str]:
    """Bytes and version."""
    for key in VERSIONS:
        if (value := info.get(key)) is not None:
            told = value.timestamp() if isinstance(value, datetime) else value  # listings and objects differ in this
            return int(info["size"] or 0), str(told).strip('"')
    return int(info["size"] or 0), ""


def _again(act: Callable[[], Any]) -> Any:
    """Networks have bad moments."""
    for left in range(TRIES - 1, -1, -1):
        try:
            return act()
        except FileNotFoundError:
            raise
        except Exception:  # every kind of storage has errors of its own
            if not left:
                raise
            time.sleep(WAIT_S * (TRIES - left))


def _told(url: str, act: Callable[[], Any]) -> Any:
    """
    Raises:
        IchsegError: one line with the URL.
    """
    try:
        return _again(act)
    except IchsegError:
        raise
    except Exception as error:  # every kind of storage has errors of its own
        raise IchsegError(f"{url}: {one_line(error) or type(error).__name__}") from error


def is_remote(name: str) -> bool:
    """True for a URL, or for a table of URLs."""
    return is_url(name) or (is_manifest(Path(name)) and names_urls(Path(name)))


# --- scans ------------------------------------------------------------------------------------------------------------
def list_remote(inputs: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Scans in object storage as :func:`ichseg.folder.list_scans` lists those of a folder; none is fetched.

    Args:
        inputs: URLs of folders, of scans, or of tables whose column ``image`` names them.
        folder: where they will lie while they are segmented.

    Returns:
        per scan ``case``, ``image`` (its place in ``folder``), and under ``remote`` its ``url``, ``bytes`` and
        ``version``.

    Raises:
        IchsegError: nothing is there, or it cannot be reached.
    """
    named = [url for one in inputs for url in (_of_table(one) if one.lower().endswith(ENDINGS) else [one.rstrip("/")])]
    roots = [(posixpath.dirname(url) if is_nifti(url) else url).split("/") for url in named]
    same = [parts[0] for parts in zip(*roots, strict=False) if len(set(parts)) == 1]
    # What is equal by chance after the first difference does not count.
    same = next(same[:n] for n in range(len(same), -1, -1) if all(parts[:n] == same[:n] for parts in roots))
    root = "/".join(same)
    if len(same) < 3:  # nothing in common but the kind of storage
        raise IchsegError(f"{named[0]}, {named[-1]}: inputs in several places; run them one by one")
    found: dict[str, dict[str, Any]] = {}
    for url in named:
        if is_nifti(url):
            about = _told(url, Store(url).info)
            found[url] = {"url": url, **({} if about is None else {"bytes": about[0], "version": about[1]})}
            continue
        store = Store(url)
        others = 0
        for name, (size, version) in store.files().items():
            one = f"{store.url}/{name}"
            if is_nifti(name) and not scan_name(name).endswith((*MASK_POSTFIXES, PROBABILITY_POSTFIX)):
                found[one] = {"url": one, "bytes": size, "version": version}
            else:
                others += 1
        if others:
            logger.warning("%s: left out %d objects that are no NIfTI files, or masks", store.url, others)
    if not found:
        raise IchsegError(f"{', '.join(named)}: no .nii or .nii.gz objects there")
    scans = []
    for url, about in sorted(found.items()):
        name = url[len(root) :].lstrip("/")
        case = posixpath.join(posixpath.dirname(name), scan_name(name))
        scans.append({"case": case, "image": str(folder / name), REMOTE: about})
    return scans


def _of_table(table: str) -> list[str]:
    """The URLs that a table names; of one in object storage, relative names are beside it."""
    if not is_url(table):
        return names_in(Path(table))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / posixpath.basename(table)
        _told(table, partial(Store(table).fetch, "", file))
        return [name if is_url(name) else posixpath.join(posixpath.dirname(table), name) for name in names_in(file)]


# --- runs -------------------------------------------------------------------------------------------------------------
@dataclass
class Elsewhere:
    """An output folder in object storage: the journal asks it about files that are not here.

    Attributes:
        store: the folder.
        files: its objects, see :meth:`Store.files`.
        stored: name -> bytes and version of what runs have sent, told by their journals.
        fresh: outputs that are written here and not sent yet.
    """

    store: Store
    files: dict[str, tuple[int, str]]
    stored: dict[str, tuple[int, str]] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)

    def has(self, name: str, size: int) -> bool:
        """True if a run's output is there as it was sent."""
        return name in self.files and self.files[name] == self.stored.get(name) and self.files[name][0] == size

    def make_way(self, name: str, begun: bool) -> str | None:
        """Rename an object that no run has sent; returns its new name, or None if nothing is in the way.

        Args:
            name: of the object.
            begun: a run has sent it, or was about to; it may not have told its version.
        """
        known = self.stored.get(name)
        if name not in self.files or (begun if known is None else self.files[name] == known):
            return None
        number = 1
        while (kept := f"{name}.bak{number if number > 1 else ''}") in self.files:
            number += 1
        _told(f"{self.store.url}/{name}", lambda: self.store.rename(name, kept))
        self.files[kept] = self.files.pop(name)
        return kept

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        if self.files.pop(name, None) is not None:
            _told(f"{self.store.url}/{name}", lambda: self.store.fs.rm_file(self.store.path(name)))

    def send(self, folder: Path, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Send files of a folder; returns bytes and version of each."""

        def one(name: str) -> tuple[int, str]:
            return _told(f"{self.store.url}/{name}", lambda: self.store.send(folder / name, name))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            sent = dict(zip(names, pool.map(one, names), strict=True))
        self.files |= sent
        self.stored |= sent
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

    def __call__(self, runner: Any, todo: list[int], take: Callable[[int, dict[str, Any]], None]) -> None:
        """See :class:`ichseg.folder.FolderRunner`."""
        data = runner.dataset.data
        chunks = [todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            coming = [pool.submit(_fetch, data[number]) for number in (chunks[0] if chunks else ())]
            for place, chunk in enumerate(chunks):
                for one in coming:
                    one.result()
                following = chunks[place + 1] if place + 1 < len(chunks) else []
                coming = [pool.submit(_fetch, data[number]) for number in following]
                runner.do_here(chunk, take)
                for number in chunk:
                    if REMOTE in data[number]:
                        Path(data[number]["image"]).unlink(missing_ok=True)
                self._send(runner)
        if self.output is not None:
            self._send_journal(runner)

    def _send(self, runner: Any) -> None:
        """First what the journal says, then the outputs: what is not there after all is made again."""
        if self.output is None:
            return
        self._send_journal(runner)
        names = [name for name in self.output.fresh if (runner.output_dir / name).is_file()]
        self.output.fresh.clear()
        runner.journal.note_stored(self.output.send(runner.output_dir, names))
        for name in names:
            (runner.output_dir / name).unlink()
        began = time.monotonic()
        if began > self._tables_at:  # they grow with the run: no more than a twentieth of its time
            self.output.send(runner.output_dir, [path.name for path in runner.output_dir.glob("results*.jsonl")])
            self._tables_at = time.monotonic() + max(TABLES_S, 20 * (time.monotonic() - began))

    def _send_journal(self, runner: Any) -> None:
        path = runner.journal.path
        with path.open("rb") as stream:
            stream.seek(self.known)
            piece = stream.read()
        if self.output is None or not piece:
            return
        self._pieces += 1
        name = f"{path.stem}-{self._name}-{self._pieces:06d}.piece"
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(piece)
            self.output.send(Path(folder), [name])
        self.known += len(piece)

    def fetch_shown(self, runner: Any) -> None:
        """Files that the report shows and that are not here."""
        from ichseg.report.page import shown_files

        if self.output is not None:
            _fetch_all(
                self.output, shown_files(runner.results.rows), runner.output_dir, "fetching images for the report"
            )

    def send_tables(self, runner: Any) -> None:
        """What is written at the end, and takes the place of what an earlier run wrote."""
        if self.output is not None:
            if runner.journal.path.is_file():
                self._send_journal(runner)
            send_tables(self.output, runner.output_dir, whole=runner.journal.shard.count == 1)


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
        work_dir: scans and outputs lie below it while they are at work; None: where temporary files go.

    Raises:
        IchsegError: storage that cannot be reached, or inputs of both kinds.
    """
    kinds = {is_remote(one) for one in inputs}
    if len(kinds) > 1:
        raise IchsegError(f"{', '.join(inputs)}: files of this machine and of object storage; run them one by one")
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
        values = given_values(bundle, config, {**overrides, "output_dir": here}, settings)
        values["dataset_dir"] = work / "scans"
        if scans is None:
            paths = [Path(one).absolute() for one in inputs]
            values["dataset_dir"] = paths[0] if len(paths) == 1 else paths
        else:
            values["dataset::data"] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner = BundleParts(bundle, config, values)["evaluator"]
            if scans is not None:
                runner.dataset.data = scans
            runner.engine = engine = RemoteEngine(elsewhere)
            runner.journal.elsewhere, runner.told_folder = elsewhere, output
            if runner.journal.path.is_file():
                engine.known = runner.journal.path.stat().st_size
            summarize = runner.summarize

            def fetched(runner: Any) -> Path | None:
                engine.fetch_shown(runner)
                return summarize(runner)

            runner.summarize = fetched
            try:
                runner.run()
            finally:
                engine.send_tables(runner)
            runner.exit_if_failed()


@contextmanager
def brought_here(url: str) -> Iterator[tuple[Path, Elsewhere]]:
    """The tables and journals of an output folder in object storage, in a folder here.

    Yields:
        the folder, gone afterward; and the one in storage.
    """
    with tempfile.TemporaryDirectory(prefix="ichseg-") as folder:
        here, elsewhere = Path(folder), Elsewhere(store := Store(url), store.files())
        tables = [name for name in elsewhere.files if any(fnmatch(name, pattern) for pattern in TABLES[1:])]
        _fetch_all(elsewhere, tables, here, "fetching tables")
        _fetch_all(elsewhere, _pieces(elsewhere.files), here, "fetching the journal", as_journal=True)
        yield here, elsewhere


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
        send_tables(elsewhere, here, whole=False)
    return results, unfinished


def send_tables(elsewhere: Elsewhere, folder: Path, whole: bool) -> None:
    """Tables and reports of a folder take the place of those in storage.

    Args:
        elsewhere, folder: to and from.
        whole: those of parts in storage are removed where there are none here.
    """
    names = sorted({path.name for pattern in TABLES for path in folder.glob(pattern)})
    elsewhere.send(folder, names)
    for name in list(elsewhere.files):
        old = fnmatch(name, "report-*.html") or PART_FILE.fullmatch(name)
        if whole and old and name not in names:
            elsewhere.remove(name)


def _pieces(files: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in files if PIECE.fullmatch(name))


def _fetch_all(elsewhere: Elsewhere, names: Sequence[str], folder: Path, what: str, as_journal: bool = False) -> None:
    """Objects as files of the same names; pieces of a journal as one file under the journal's name."""
    store = elsewhere.store
    wanted = [name for name in names if name in elsewhere.files and not (folder / name).is_file()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [pool.submit(_told, f"{store.url}/{n}", partial(store.fetch, n, folder / n)) for n in wanted]
        for job in progress(jobs, what, leave=False) if jobs else ():
            job.result()
    for name in wanted if as_journal else ():
        journal = folder / f"{PIECE.fullmatch(name)[1]}.jsonl"  # type: ignore[index]
        with journal.open("ab") as stream:
            stream.write((folder / name).read_bytes())
        (folder / name).unlink()
        if changed := store.changed(name):
            os.utime(journal, (changed, changed))


def _fetch(case: dict[str, Any]) -> None:
    """A scan as a file; one that cannot be fetched is marked, and fails when its turn comes."""
    about = case.get(REMOTE)
    if about is None:
        return
    try:
        Store(about["url"]).fetch("", Path(case["image"]))
        case.pop("broken", None)
    except Exception as error:  # every kind of storage has errors of its own
        gone = isinstance(error, FileNotFoundError)
        case["broken"] = "not found" if gone else f"cannot be fetched ({one_line(error)})"
