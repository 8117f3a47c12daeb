"""A folder that keeps what a PACS sent and what is to go back, through crashes and full disks.

``incoming/STUDY`` receives what is pushed, ``fetched/STUDY`` what is asked for. A study that has been quiet for a
while, or was fetched to its end, moves to ``studies/STUDY`` and is segmented into ``results``; what is to be sent
stands in ``outbox``, and what was done in ``state``. STUDY is a hash of the StudyInstanceUID, so that no name tells
anything of a patient. Every change is one rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ichseg.errors import IchsegError
from ichseg.io import atomic_path, write_text
from ichseg.io.atomic import remove_leftovers

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

HOUR_SECONDS = 3600.0
LOOK_SECONDS = 60.0  # between looks for what may be removed


class DiskFull(IchsegError):
    """There is too little room left to accept more."""


class Spool:
    """The folder.

    Args:
        folder: is made.
        min_free_gib: nothing is accepted with less room on the disk.

    Raises:
        IchsegError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path, min_free_gib: float = 2.0) -> None:
        self.folder, self.min_free = Path(folder).absolute(), min_free_gib * 2**30
        self.incoming, self.studies = self.folder / "incoming", self.folder / "studies"
        self.results, self.outbox, self.state = (self.folder / name for name in ("results", "outbox", "state"))
        self.fetched = self.folder / "fetched"
        try:
            for one in (self.incoming, self.fetched, self.studies, self.results, self.outbox, self.state):
                one.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise IchsegError(f"{self.folder}: cannot be used as a spool ({error.strerror})") from None
        self._moving, self._writing = threading.Lock(), threading.Lock()
        self._looked = 0.0

    @property
    def month(self) -> Path:
        """Where results go now, ``results/YYYY-MM``: tables and journals end with the month, else they grow forever."""
        return self.results / time.strftime("%Y-%m")

    @contextmanager
    def opened(self) -> Iterator[Spool]:
        """Keep other processes out, and clear what an interrupted one left.

        Raises:
            IchsegError: another process works in the folder.
        """
        with (self.folder / ".lock").open("a") as stream:
            if fcntl is not None:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise IchsegError(f"{self.folder}: another process works in this folder; choose another") from None
            remove_leftovers(self.folder)
            for one in (*self.studies.iterdir(), *self.incoming.iterdir()):
                if one.is_dir() and not any(one.iterdir()):
                    one.rmdir()
            yield self

    # --- receiving ----------------------------------------------------------------------------------------------
    def receive(self, study_uid: str, instance_uid: str, data: bytes) -> str:
        """Keep one object; when this returns, it is on the disk.

        Returns:
            the name of its study.

        Raises:
            DiskFull: there is too little room; nothing is kept.
        """
        study = short_hash(study_uid)
        with self._moving:
            self._keep(self.incoming / study, instance_uid, data)
        return study

    @contextmanager
    def fetching(self, study_uid: str) -> Iterator[Callable[[str, bytes], None]]:
        """Collect a study that is asked for; it is complete when the block ends, and forgotten if that fails.

        Yields:
            a function of SOPInstanceUID and data that keeps one object; it raises :class:`DiskFull`.
        """
        study = short_hash(study_uid)
        folder = self.fetched / study
        shutil.rmtree(folder, ignore_errors=True)  # of a killed process
        try:
            yield partial(self._keep, folder)
            target = self.studies / study
            target.mkdir(exist_ok=True)
            for file in sorted(folder.glob("*.dcm")):
                file.replace(target / file.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def note(self, study: str, **facts: Any) -> None:
        """Write down something else about a study."""
        with self._writing:
            write_text(self.state / f"{study}.json", json.dumps({**self.known(study), **facts}))

    def _keep(self, folder: Path, instance_uid: str, data: bytes) -> None:
        if shutil.disk_usage(self.folder).free - len(data) < self.min_free:
            raise DiskFull(f"{self.folder}: less than {self.min_free / 2**30:g} GiB free; not accepted")
        try:
            with atomic_path(folder / f"{short_hash(instance_uid)}.dcm") as temporary:
                temporary.write_bytes(data)
            _sync_folder(folder)
        except OSError as error:
            raise DiskFull(f"{self.folder}: {error.strerror or error}; not accepted") from None

    def claim(self, quiet_seconds: float) -> list[str]:
        """Move studies that have been quiet to where they are segmented; returns their names."""
        moved = []
        for folder in sorted(self.incoming.iterdir()):
            if not folder.is_dir() or time.time() - folder.stat().st_mtime < quiet_seconds:
                continue
            target = self.studies / folder.name
            with self._moving:
                target.mkdir(exist_ok=True)
                for file in sorted(folder.glob("*.dcm")):
                    file.replace(target / file.name)
                shutil.rmtree(folder)  # only what a killed process left
            moved.append(folder.name)
        return moved

    # --- segmenting ---------------------------------------------------------------------------------------------
    def waiting(self) -> list[str]:
        """Studies with images that no finished run has seen, oldest first."""
        found = []
        for folder in self.studies.iterdir():
            names = {file.name for file in folder.glob("*.dcm")}
            if names - set(self.known(folder.name).get("images", ())):
                found.append((folder.stat().st_mtime, folder.name))
        return [name for _, name in sorted(found)]

    def known(self, study: str) -> dict[str, Any]:
        """What is known of a study; empty before it was segmented."""
        file = self.state / f"{study}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def finish(
        self, study: str, images: Sequence[str], objects: Mapping[str, str], outcome: str, destinations: Sequence[str]
    ) -> None:
        """Write down that a study is segmented, after queueing what is to be sent and was not sent before.

        A process that is killed between the two does the study again, with the same objects. Without destinations, the
        objects are held for :meth:`release`.

        Args:
            study: its name.
            images: file names of the images that were seen.
            objects: path within ``results`` -> SOPInstanceUID.
            outcome: a few words.
            destinations: names.
        """
        with self._writing:
            before = self.known(study)
            self._queue_unsent(study, before, objects, destinations)
            seen = sorted({*images, *before.get("images", ())})
            state = {**before, "images": seen, "outcome": outcome, "finished": time.time()}
            state["held"] = {} if destinations else {**before.get("held", {}), **objects}
            write_text(self.state / f"{study}.json", json.dumps(state))

    def release(self, destinations: Sequence[str]) -> int:
        """Queue what was made while there were no destinations; returns of how many studies."""
        count = 0
        for file in sorted(self.state.glob("*.json")) if destinations else ():
            study = file.stem
            with self._writing:
                state = self.known(study)
                if held := state.get("held"):
                    self._queue_unsent(study, state, held, destinations)
                    write_text(file, json.dumps({**state, "held": {}}))
                    count += 1
        return count

    def _queue_unsent(
        self, study: str, state: Mapping[str, Any], objects: Mapping[str, str], destinations: Sequence[str]
    ) -> None:
        for destination in destinations:
            there = state.get("sent", {}).get(destination, {}).values()
            if names := [name for name, uid in objects.items() if uid not in there]:
                entry = {"objects": names, "tries": 0, "next": 0.0, "made": secrets.token_hex(8)}
                self._queue(study, destination, entry)

    def forget(self, hours: float) -> int:
        """Remove images and scans of studies that were finished so long ago and wait for nothing; returns how many."""
        if time.time() - self._looked < min(LOOK_SECONDS, hours * HOUR_SECONDS):
            return 0
        self._looked = time.time()
        waiting = {self._study_of(file) for file in self.outbox.glob("*.json")} | set(self.waiting())
        removed = 0
        for study in sorted(folder.name for folder in self.studies.iterdir()):
            old = time.time() - self.known(study).get("finished", time.time()) >= hours * HOUR_SECONDS
            if not old or study in waiting:
                continue
            shutil.rmtree(self.studies / study)
            for scan in self.results.glob(f"*/scans/{study}*"):
                scan.unlink()
            removed += 1
        return removed

    # --- sending ------------------------------------------------------------------------------------------------
    def due(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(study, destination, entry) of what is to be sent now."""
        found = []
        for file in sorted(self.outbox.glob("*.json")):
            entry = json.loads(file.read_text(encoding="utf-8"))
            if entry["next"] <= time.time():
                found.append((self._study_of(file), entry["destination"], entry))
        return found

    def sent(self, study: str, destination: str, name: str, uid: str) -> None:
        """One object has arrived."""
        with self._writing:
            state = self.known(study)
            state.setdefault("sent", {}).setdefault(destination, {})[name] = uid
            write_text(self.state / f"{study}.json", json.dumps(state))

    def delivered(self, study: str, destination: str, entry: Mapping[str, Any]) -> None:
        """Nothing of an entry is left to be sent. One that was queued meanwhile stays."""
        with self._writing:
            if self._is_current(study, destination, entry):
                self._file(study, destination).unlink(missing_ok=True)

    def postpone(self, study: str, destination: str, entry: Mapping[str, Any], pause: float) -> None:
        """Not everything could be sent: try again after a pause, in seconds."""
        with self._writing:
            if self._is_current(study, destination, entry):
                self._queue(study, destination, {**entry, "tries": entry["tries"] + 1, "next": time.time() + pause})

    def _is_current(self, study: str, destination: str, entry: Mapping[str, Any]) -> bool:
        file = self._file(study, destination)
        return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["made"] == entry["made"]

    def _queue(self, study: str, destination: str, entry: Mapping[str, Any]) -> None:
        write_text(self._file(study, destination), json.dumps({**entry, "destination": destination}))

    def _file(self, study: str, destination: str) -> Path:
        return self.outbox / f"{study}_{short_hash(destination)}.json"

    @staticmethod
    def _study_of(file: Path) -> str:
        return file.stem.split("_")[0]


def _sync_folder(folder: Path) -> None:
    """A new name survives a power cut only once its folder is written, where the system can be told so."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def short_hash(text: str) -> str:
    """A name that tells nothing, the same for the same text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
