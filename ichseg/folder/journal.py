"""What a run has done, in a form that the next run can verify."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ichseg.errors import IchsegError
from ichseg.folder.ondisk import Lines, Table
from ichseg.folder.shard import Shard
from ichseg.io.atomic import remove_leftovers
from ichseg.io.folder import ROOT, is_own_mask, is_own_scan, is_probability
from ichseg.io.nifti import is_nifti
from ichseg.io.urls import DICOM, REMOTE
from ichseg.provenance import file_hash, value_hash
from ichseg.version import __version__

if TYPE_CHECKING:
    from ichseg.folder.elsewhere import Elsewhere

try:
    import fcntl
except ImportError:  # Windows has no flock; two runs at once are then not noticed
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
CASE, OUTPUT = "case ", "output "  # before names of both kinds, under which lines are kept
PLACES = ("image", ROOT, REMOTE)  # of a data dictionary: what says where a scan lies, not what it is


class Journal:
    """``journal.jsonl`` in the output folder: a line per run and a line per case, appended and flushed at once.

    Every line holds the hash of itself: one that was torn or edited does not count.
    A case is done if some line of it agrees with the case's input now (size and SHA-256), with what else the data
    dictionary says of it, with the weights, the settings and the version of this run, and if every file it left is
    there with the bytes it was written with. Nothing is believed because it exists.

    Args:
        output_dir: folder of the run's outputs.
        weights: weight file or files, to be named in the report.
        overwrite: believe nothing; do every case anew.
        shard: which part of the cases this run does; parts have journals of their own and read each other's.
    """

    def __init__(
        self,
        output_dir: str | Path,
        weights: str | Path | Sequence[str | Path] | Mapping[str, str | Path] = (),
        overwrite: bool = False,
        shard: str | None = None,
    ) -> None:
        self.folder, self.overwrite, self.shard = Path(output_dir), overwrite, Shard.parse(shard)
        files = [weights] if isinstance(weights, str | Path) else list(weights.values() if isinstance(weights, Mapping)
                                                                      else weights)  # fmt: skip
        self.weights = {Path(file).name: file_hash(file) for file in files}
        self.settings: dict[str, Any] = {}
        self.run = ""
        self.path = self.folder / f"journal{self.shard.suffix}.jsonl"
        self._lines = Lines()  # of the journals, by case and by output
        self.begun: dict[str, float] = {}  # outputs that a run began to write and may not have recorded, and when
        self._weights_of: dict[str, list[str]] = {}  # hashes of the weight files that runs used
        self.elsewhere: Elsewhere | None = None  # outputs that are not here but in object storage
        self._stream: TextIO | None = None

    @contextlib.contextmanager
    def opened(self, settings: Mapping[str, Any] | None = None, network: str = "") -> Iterator[Journal]:
        """Keep other runs out of the folder, clear what an interrupted one left, and read what was done.

        Args:
            settings: every value that the outputs depend on, see :func:`ichseg.provenance.describe`.
            network: :func:`ichseg.provenance.network_hash` of the network.

        Raises:
            IchsegError: another run is writing into the folder.
        """
        self.settings = dict(settings or {})
        self.run = run_hash(network, self.settings)
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as locks:
            # Parts share the folder among themselves, but with no run of everything, and each with itself.
            self._lock(locks, self.folder / ".journal.lock", shared=self.shard.count > 1)
            if self.shard.count > 1:
                self._lock(locks, self.folder / f".journal{self.shard.suffix}.lock", shared=False)
            remove_leftovers(self.folder, all_of_them=self.shard.count == 1)
            self._read()
            torn = self.path.is_file() and not _ends_a_line(self.path)
            with self.path.open("a", encoding="utf-8") as self._stream:
                if torn:
                    self._stream.write("\n")
                self._begin()
                yield self
        self._stream = None

    def _begin(self) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        version = {"run": self.run, "ichseg": __version__, "started": now}
        self._append({**version, "weights": self.weights, "settings": self.settings})
        self._weights_of[self.run] = sorted(self.weights.values())

    def announce(self, scans: int, todo: int) -> None:
        """Write down how many cases this run has, and how many of them no earlier run has done."""
        self._append({"scans": scans, "todo": todo, "run": self.run})

    def identity(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """What a case is made of: size and SHA-256 of its image, and the rest of its data dictionary.

        Of DICOM, the identifiers of its images and the sizes of their files take the place of the hash; of an image in
        object storage, its version: no need to fetch it.

        Raises:
            OSError: the image cannot be read.
        """
        rest = value_hash({str(key): value for key, value in item.items() if key not in PLACES})
        if DICOM in item:  # its image is made of the files that the entry names, when it is read
            known = item[DICOM]
            sizes = [size for size, _ in known["stamps"]]
            what = [[*instance[1:]] for instance in known["instances"]]
            return {"bytes": sum(sizes), "sha256": value_hash([what, sizes]), "item": rest}
        if REMOTE in item:
            if "version" not in item[REMOTE]:
                raise FileNotFoundError(item[REMOTE]["url"])
            return {"bytes": item[REMOTE]["bytes"], "sha256": item[REMOTE]["version"], "item": rest}
        image = Path(str(item["image"]))
        return {"bytes": image.stat().st_size, "sha256": file_hash(image), "item": rest}

    def done(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row of an earlier run that still holds for this case, or None.

        Where one does, probabilities of another mask that lie next to its mask are removed.
        """
        every = self._records_of(str(item["case"]))
        records = [r for r in every if r["run"] == self.run and r["outputs"]]
        if self.overwrite or not records:
            return None
        try:
            if REMOTE in item and not item[REMOTE].get("version"):
                return None  # storage that does not say whether it is still the same
            if DICOM not in item:  # whose identity costs nothing
                size = item[REMOTE]["bytes"] if REMOTE in item else Path(str(item["image"])).stat().st_size
                if not any(r["input"]["bytes"] == size and self._intact(r) for r in records):
                    return None
            now = self.identity(item)
        except OSError:
            return None
        for record in reversed(records):
            if record["input"] == now and self._intact(record):
                self._drop_probabilities(every, record["outputs"])
                return record["row"]
        return None

    def record(
        self, item: Mapping[str, Any], identity: dict[str, Any], row: dict[str, Any], outputs: Sequence[Path]
    ) -> None:
        """Write down that a case is done, after its outputs are in place."""
        names = {os.path.relpath(path, self.folder): path for path in outputs}
        kept = {name: {"bytes": p.stat().st_size, "sha256": file_hash(p)} for name, p in sorted(names.items())}
        self._drop_probabilities(self._records_of(str(item["case"])), kept)
        done = {"case": item["case"], "run": self.run, "input": identity, "outputs": kept, "row": row}
        self._append({**done, "at": time.time()})
        self._recorded(kept)
        if self.elsewhere is not None:
            self.elsewhere.fresh += kept

    def note_stored(self, stored: Mapping[str, Sequence[str]]) -> None:
        """Write down under which versions outputs have gone to object storage: name -> version, SHA-256."""
        if stored:
            self._append({"stored": stored})

    def other_cases(self, items: Iterable[Mapping[str, Any]]) -> list[str]:
        """Names of cases that are not among ``items`` and whose outputs are still there."""
        known = Table((str(item["case"]), None) for item in items)
        there = self.elsewhere.files if self.elsewhere is not None else ()
        return [
            case
            for case in (name.removeprefix(CASE) for name in self._lines.names(CASE))
            if case not in known
            and any(n in there or (self.folder / n).is_file() for r in self._records_of(case) for n in r["outputs"])
        ]

    def knows(self, case: str) -> bool:
        """True if an earlier run has done a case, whatever has become of it."""
        return bool(self._lines.of(CASE + case))

    def withdraw(self, item: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
        """Remove what earlier runs made of another input of a case that has now failed: it would look finished.

        What was made of the same input stays. So do the input itself, which a run may have made of DICOM, and files
        that were changed since.

        Returns:
            the names of what was removed, within the folder.
        """
        removed: list[str] = []
        for record in self._records_of(str(item["case"])):
            if record["input"]["sha256"] == identity["sha256"]:
                continue
            removed += self._remove({name: kept for name, kept in record["outputs"].items()
                                     if DICOM in item or not _is_file(self.folder / name, item["image"])})  # fmt: skip
        return removed

    def _drop_probabilities(self, records: Iterable[Mapping[str, Any]], kept: Mapping[str, Any]) -> None:
        """Remove probabilities that belong to another mask than the one next to them.

        They belong to it if they were written with it, or by the same weights together with the same mask.

        Args:
            records: of the case.
            kept: its outputs now.
        """
        for record in records:
            outputs = record["outputs"]
            old = {name: one for name, one in outputs.items() if name not in kept and is_probability(name)}
            alike = all(outputs[name] == kept[name] for name in outputs.keys() & kept.keys())
            if old and not (alike and self._weights_of.get(record["run"]) == sorted(self.weights.values())):
                self._remove(old)

    def _remove(self, outputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Remove outputs that are as they were recorded; returns their names."""
        removed = []
        for name, kept in outputs.items():
            if self._same(name, kept):
                here = (self.folder / name).is_file()
                (self.folder / name).unlink(missing_ok=True)
                there = self.elsewhere is not None and self.elsewhere.remove(name, kept)
                if here or there:
                    removed.append(name)
        return removed

    def make_way(self, path: Path) -> str | None:
        """Called before an output is written: a file there that no run has written is renamed, never overwritten.

        Returns:
            its new name within the folder: ``NAME.bak``, and if that is taken ``NAME.bak2`` and so on; None if nothing
            was in the way.
        """
        name = os.path.relpath(path, self.folder)
        moved = None
        if path.is_file() and not self._left_by_a_run(path, name) and not self._learn(path, name):
            number = 1
            while (kept := path.with_name(f"{path.name}.bak{number if number > 1 else ''}")).exists():
                number += 1
            path.replace(kept)
            moved = os.path.relpath(kept, self.folder)
            logger.warning("%s: edited or not written by ichseg; kept as %s", path, kept.name)
        elif self.elsewhere is not None:
            moved = self.elsewhere.make_way(name, [kept["sha256"] for kept in self._ways_left(name)])
        if name not in self.begun:
            self.begun[name] = time.time()
            # A run that is killed now knows the file for its own.
            self._append({"begun": name, "at": self.begun[name]})
        return moved

    def known_of(self, case: str) -> dict[str, Any]:
        """What earlier runs have left of a case, for :meth:`ichseg.folder.worker_journal.WorkerJournal.know`."""
        return {
            "records": self._lines.of(CASE + case),
            "begun": {name: at for name, at in self.begun.items() if case in name},
            "weights": self._weights_of,
        }

    def _learn(self, path: Path, name: str) -> bool:
        """Look elsewhere for who wrote a file that is not known; True if a run did."""
        return False

    def _left_by_a_run(self, path: Path, name: str) -> bool:
        """True if a file is as it was recorded, or is ours and was begun by a run that did not get to recording it."""
        if name in self.begun and (not is_nifti(path) or is_own_mask(path) or is_own_scan(path)):
            return True
        ways = self._ways_left(name)
        if not ways and is_nifti(path) and is_own_scan(path):
            return True  # of a version that did not record the scans it made of DICOM
        return any(self._same(name, kept) for kept in ways)

    def _intact(self, record: Mapping[str, Any]) -> bool:
        return all(self._same(name, kept) for name, kept in record["outputs"].items())

    def _same(self, name: str, kept: Mapping[str, Any]) -> bool:
        path = self.folder / name
        try:
            return path.stat().st_size == kept["bytes"] and file_hash(path) == kept["sha256"]
        except OSError:
            return self.elsewhere is not None and self.elsewhere.has(name, kept)

    def _read(self) -> None:
        """Take in all journals of the folder: what is no whole line of ours does not count."""
        self._forget()
        for path in sorted(self.folder.glob("journal*.jsonl")):
            with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
                for line in lines:
                    self._take_line(line)
        # Journals come in the order of their names: what one recorded, another may have begun long before.
        for name in list(self.begun):
            if self.begun[name] <= max(self._times_recorded(name), default=-1.0):
                del self.begun[name]

    def _take_line(self, line: str) -> None:
        try:
            record = json.loads(line)
            whole = record.pop("sum") == value_hash(record)
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # a line that a killed run did not finish
        if whole and "weights" in record and "run" in record:
            self._weights_of[record["run"]] = sorted(record["weights"].values())
        elif whole and "begun" in record:
            self.begun[record["begun"]] = max(float(record.get("at", 0.0)), self.begun.get(record["begun"], 0.0))
        elif whole and "stored" in record and self.elsewhere is not None:
            for name, (version, digest) in record["stored"].items():
                self.elsewhere.hashes[name][version] = digest
        elif whole and "case" in record and all(map(inside, record["outputs"])):
            self._take(line, record)

    def _forget(self) -> None:
        self._lines.clear()
        self.begun, self._weights_of = {}, {}

    def _take(self, line: str, record: Mapping[str, Any]) -> None:
        self._lines.add([CASE + record["case"], *(OUTPUT + name for name in record["outputs"])], line)
        self._recorded(record["outputs"], record.get("at"))

    def _recorded(self, names: Iterable[str], at: float | None = None) -> None:
        """Outputs that were begun before this time, now if None, are not open any more."""
        for name in names:
            if at is None or self.begun.get(name, at + 1) <= at:
                self.begun.pop(name, None)

    def _times_recorded(self, name: str) -> list[float]:
        return [float(json.loads(line).get("at", 0.0)) for line in self._lines.of(OUTPUT + name)]

    def _records_of(self, case: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines.of(CASE + case)]

    def _ways_left(self, name: str) -> list[dict[str, Any]]:
        """Size and hash of an output, each time that it was recorded."""
        return [json.loads(line)["outputs"][name] for line in self._lines.of(OUTPUT + name)]

    def _append(self, record: Mapping[str, Any]) -> None:
        if self._stream is None:
            raise RuntimeError("the journal is not open")
        record = json.loads(json.dumps(record, default=str))
        self._stream.write(json.dumps({**record, "sum": value_hash(record)}) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _lock(self, locks: contextlib.ExitStack, path: Path, shared: bool) -> None:
        stream = locks.enter_context(path.open("a"))
        if fcntl is None:
            return
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            what = "another run" if self.shard.count == 1 or not shared else "a run without --shard"
            raise IchsegError(
                f"{self.folder}: {what} is writing to this folder; wait until it ends or choose another folder. "
                "To share the work among several runs, start them with --shard 1/2 and --shard 2/2"
            ) from None
        except OSError as error:  # some network file systems have no locks
            logger.warning("%s: cannot be locked (%s); do not start a second run in this folder", path, error.strerror)


def run_hash(network: str, settings: Mapping[str, Any]) -> str:
    """Two runs with the same hash make the same of the same scan."""
    return value_hash({"ichseg": __version__, "network": network, "settings": settings})


def _is_file(path: Path, image: Any) -> bool:
    return os.path.realpath(path) == os.path.realpath(str(image))


def kept_aside(name: str) -> str:
    """What is said of a file that :meth:`Journal.make_way` has renamed."""
    return f"existing file, edited or not written by ichseg, kept as {name}"


def inside(name: str) -> bool:
    """True if a name stays within the folder it is relative to."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as stream:
        if stream.seek(0, os.SEEK_END) == 0:
            return True
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
