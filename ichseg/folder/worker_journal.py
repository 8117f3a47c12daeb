"""The journal of a process that does some cases of another process's run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ichseg.folder.journal import Journal, run_hash


class WorkerJournal(Journal):
    """The journal of a process that does some cases of another process's run: ``journal-worker-NAME.jsonl``.

    Only the run that gave it the work holds the folder's lock and knows all cases; what it knows of those given here
    comes with them. Later runs read this journal as they read all others.

    Args:
        journal: of the run, as its config makes it.
        name: of the process, unlike that of any other.
    """

    def __init__(self, journal: Journal, name: str) -> None:
        super().__init__(journal.folder)
        self.weights = journal.weights
        self.path = self.folder / f"journal-worker-{name}.jsonl"

    def join(self, settings: Mapping[str, Any], network: str) -> None:
        """Begin; the file stays open as long as the process lives. Arguments as of :meth:`opened`."""
        self.settings = dict(settings)
        self.run = run_hash(network, self.settings)
        self._stream = self.path.open("a", encoding="utf-8")
        self._begin()

    def know(self, known: Sequence[Mapping[str, Any]]) -> None:
        """Take over what the run knows of the cases that come next, see :meth:`known_of`."""
        self._forget()
        for one in known:
            self.begun.update(one["begun"])
            self._weights_of.update(one["weights"])
            for line in one["records"]:
                self._take(line, json.loads(line))

    def _learn(self, path: Path, name: str) -> bool:
        self._read()  # another process may have written it, and died before it could say so
        return self._left_by_a_run(path, name)
