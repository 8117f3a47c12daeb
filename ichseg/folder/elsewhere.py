"""An output folder in object storage, and what of it is brought here."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ichseg.folder.store import AT_ONCE, Store, told
from ichseg.progress import progress
from ichseg.provenance import file_hash

PIECE = re.compile(r"(journal(?:-\d+of\d+)?)-\d{8}T\d{6}-[0-9a-f]{8}-\d{6}\.piece")


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
        if not self._look_again(name) or self.sha256(name) in hashes:
            return None
        number = 1
        while (kept := f"{name}.bak{number if number > 1 else ''}") in self.files:
            number += 1
        told(f"{self.store.url}/{name}", lambda: self.store.rename(name, kept))
        self.files[kept] = self.files.pop(name)
        return kept

    def remove(self, name: str, kept: Mapping[str, Any] | None = None) -> bool:
        """Remove an object, if it is there; returns whether it was.

        Args:
            name: of the object.
            kept: what was recorded of it: one that is different by now, as somebody has edited it, stays.
        """
        if name not in self.files or (kept is not None and not (self._look_again(name) and self.has(name, kept))):
            return False
        del self.files[name]
        told(f"{self.store.url}/{name}", lambda: self.store.remove(name))
        return True

    def _look_again(self, name: str) -> bool:
        """True if an object is there now: somebody may edit it, or remove it, at any time."""
        now = told(f"{self.store.url}/{name}", lambda: self.store.info(name))
        self.files.pop(name, None)
        if now is not None:
            self.files[name] = now
        return now is not None

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


def pieces(files: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in files if PIECE.fullmatch(name))


def fetch_all(elsewhere: Elsewhere, names: Sequence[str], folder: Path, what: str, as_journal: bool = False) -> None:
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
