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
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from ichseg.bundle import BundleParts, given_values
from ichseg.errors import NO_ROOM, IchsegError, one_line
from ichseg.folder.journal import inside
from ichseg.folder.manifest import ENDINGS, is_manifest, names_in, names_urls
from ichseg.folder.parts import PART_FILE, merge_parts
from ichseg.folder.results import Results
from ichseg.folder.status import Part
from ichseg.io.folder import MASK_POSTFIXES, PROBABILITY_POSTFIX
from ichseg.io.nifti import is_nifti, scan_name
from ichseg.io.urls import REMOTE, is_url
from ichseg.progress import progress
from ichseg.provenance import file_hash

logger = logging.getLogger(__name__)

CHUNK = 16  # scans that are fetched, segmented and sent together
PIECE = re.compile(r"(journal(?:-\d+of\d+)?)-\d{8}T\d{6}-[0-9a-f]{8}-\d{6}\.piece")
# Under which names the kinds of storage tell the version of an object, those that listings leave out or change last.
VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "generation", "LastModified", "last_modified",
            "Last-Modified", "created", "modified", "modificationTime", "modify", "mtime")  # fmt: skip
TABLES_S = 60.0  # between tables on the way
# Storage without folders: their names need not be made first, and making them would make buckets.
FLAT = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"))
TRIES, WAIT_S = 3, 2.0
AT_ONCE = 8  # transfers
# Sent when the run has ended, not with the scans.
PAGE = re.compile(r"report(-\d+)?\.html")
TOLD = re.compile(r"results[^/]*\.jsonl|report[^/]*\.json")  # what status and merge read
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
        kinds = {self.fs.protocol} if isinstance(self.fs.protocol, str) else set(self.fs.protocol)
        self.flat = bool(kinds & FLAT)

    def files(self) -> dict[str, tuple[int, str]]:
        """Every object below, by its name relative to the folder: bytes and version. Nothing there: none."""
        self.fs.invalidate_cache()
        found = _told(self.url, lambda: self.fs.find(self.root, withdirs=False, detail=True))
        below = self.root.rstrip("/") + "/"  # this alone is an object that stands for the folder
        return {
            path[len(below) :]: _identity(info)
            for path, info in found.items()
            if path.startswith(below) and path != below and inside(path[len(below) :])
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

    def sha256(self, name: str) -> str:
        """Of an object, which is fetched for it."""
        with tempfile.TemporaryDirectory() as folder:
            self.fetch(name, Path(folder) / "object")
            return file_hash(Path(folder) / "object")

    def send(self, file: Path, name: str) -> tuple[int, str]:
        """A file as an object; returns its bytes and version."""
        if not self.flat:
            self.fs.makedirs(posixpath.dirname(self.path(name)), exist_ok=True)
        _again(lambda: self.fs.put_file(str(file), self.path(name)))
        made = self.info(name)
        if made is None or made[0] != file.stat().st_size:
            raise IchsegError(f"{self.url}/{name}: the upload is incomplete")
        return made

    def rename(self, name: str, new: str) -> None:
        """Another name for an object; not ``mv``, for which brackets in names are patterns."""
        self.fs.cp_file(self.path(name), self.path(new))
        self.fs.rm_file(self.path(name))

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
    for url in (one for one in named if not is_nifti(one)):
        store = Store(url)
        others = 0
        for name, (size, version) in store.files().items():
            if is_nifti(name) and not scan_name(name).endswith((*MASK_POSTFIXES, PROBABILITY_POSTFIX)):
                one = f"{store.url}/{name}"
                found[one] = {"url": one, "bytes": size, "version": version, "store": store, "name": name}
            else:
                others += 1
        if others:
            logger.warning("%s: skipped %d object(s): masks or not NIfTI", store.url, others)
    alone = [url for url in named if is_nifti(url)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [pool.submit(_look, url) for url in alone]
        for job in progress(jobs, "looking at scans", leave=False) if jobs else ():
            found[job.result()["url"]] = job.result()
    if not found:
        raise IchsegError(f"{', '.join(named)}: no .nii or .nii.gz objects there")
    scans = []
    for url, about in sorted(found.items()):
        name = url[len(root) :].lstrip("/")
        if not inside(name):
            raise IchsegError(f"{url}: its name leads out of the folder of all scans")
        case = posixpath.join(posixpath.dirname(name), scan_name(name))
        why = {"broken": about.pop("broken")} if "broken" in about else {}
        scans.append({"case": case, "image": str(folder / name), REMOTE: about, **why})
    return scans


def _look(url: str) -> dict[str, Any]:
    """What is known of one scan; one that cannot be reached fails when its turn comes."""
    store = Store(url)
    try:
        about = _again(store.info)
    except Exception as error:  # every kind of storage has errors of its own
        return {"url": url, "store": store, "name": "", "broken": f"cannot be reached ({one_line(error)})"}
    known = {} if about is None else {"bytes": about[0], "version": about[1]}
    return {"url": url, "store": store, "name": "", **known}


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
            found = _told(f"{self.store.url}/{name}", lambda: self.store.sha256(name))
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
        now = _told(f"{self.store.url}/{name}", lambda: self.store.info(name))  # somebody may edit it at any time
        if now is None:
            self.files.pop(name, None)
            return None
        self.files[name] = now
        if self.sha256(name) in hashes:
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
        versions = {name: [sent[name][1], file_hash(runner.output_dir / name)] for name in names if sent[name][1]}
        runner.journal.note_stored(versions)
        self._send_journal(runner)
        for name in names:
            if name in versions:
                version, digest = versions[name]
                self.output.hashes[name][version] = digest
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
        """Files that the report shows and that are not here."""
        from ichseg.report.page import shown_files

        if self.output is not None:
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
            values["dataset::data"] = []
            values["evaluator::keep_rows"] = all(map(is_nifti, inputs))  # as of files that are named one by one
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
    if "broken" in case:
        return
    try:
        about["store"].fetch(about["name"], Path(case["image"]))
    except Exception as error:  # every kind of storage has errors of its own
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        gone = isinstance(error, FileNotFoundError)
        case["broken"] = "not found" if gone else f"cannot be fetched ({one_line(error)})"
