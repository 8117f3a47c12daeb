"""What a run knows of its scans, in a temporary file in place of memory: an archive may have a million of them.

Every object here has a private SQLite database, which SQLite removes when the object goes or the process dies.
"""

from __future__ import annotations

import errno
import json
import operator
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

AT_ONCE = 1000  # rows that are in memory while one goes through them


class Database:
    """A temporary database that several threads may use.

    Args:
        tables: statements that create its tables.

    Raises:
        OSError: here and wherever it is used: no room for temporary files.
    """

    def __init__(self, *tables: str) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in ("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", *tables):
            self.all(statement)

    def __del__(self) -> None:
        self._database.close()  # at once, and not when Python collects cycles: its file may be large

    def all(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Execute a statement; returns the rows that it gives."""
        return self._locked(lambda: self._database.execute(statement, values).fetchall())

    def one(self, statement: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Execute a statement; returns the first row that it gives."""
        rows = self.all(statement, values)
        return rows[0] if rows else None

    def add(self, statement: str, values: Sequence[Any]) -> int:
        """Execute an INSERT; returns the number of the row."""
        return int(self._locked(lambda: self._database.execute(statement, values)).lastrowid or 0)

    def add_all(self, statement: str, many: Iterable[Sequence[Any]]) -> None:
        """Execute an INSERT for each; the database must not be used while the iterable is."""

        def insert() -> None:
            self._database.execute("BEGIN")
            try:
                self._database.executemany(statement, many)
            finally:
                if self._database.in_transaction:  # a full disk has ended it
                    self._database.execute("COMMIT")

        self._locked(insert)

    def each(self, statement: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a SELECT, a few in memory at a time."""
        cursor = self._locked(lambda: self._database.execute(statement, values))
        while rows := self._locked(lambda: cursor.fetchmany(AT_ONCE)):
            yield from rows

    def _locked(self, step: Callable[[], Any]) -> Any:
        with self._lock:
            try:
                return step()
            except sqlite3.OperationalError as error:
                number = errno.ENOSPC if "full" in str(error) else errno.EIO
                raise OSError(number, f"{error} (set TMPDIR to use another folder)", "temporary files") from None


class Items(Sequence[dict[str, Any]]):
    """A list of dictionaries that JSON can say.

    Args:
        items: the first of them.
    """

    def __init__(self, items: Iterable[Mapping[str, Any]] = ()) -> None:
        self._rows = Database("CREATE TABLE items (number INTEGER PRIMARY KEY, item TEXT)")
        self._rows.add_all("INSERT INTO items (item) VALUES (?)", ((json.dumps(item),) for item in items))
        self._count = int((self._rows.one("SELECT COUNT(*) FROM items") or (0,))[0])

    def __reduce__(self) -> tuple[type[Items], tuple[list[dict[str, Any]]]]:
        return Items, (list(self),)  # for processes that are not forked

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for (item,) in self._rows.each("SELECT item FROM items ORDER BY number"):
            yield json.loads(item)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        place = operator.index(index)
        place += len(self) if place < 0 else 0
        found = self._rows.one("SELECT item FROM items WHERE number = ?", (place + 1,))
        if place < 0 or found is None:
            raise IndexError(index)
        return json.loads(found[0])


class Table:
    """Names, such as paths, and a value for each: text, a number or None; names come in order."""

    def __init__(self, pairs: Iterable[tuple[str, Any]] = ()) -> None:
        self._rows = Database("CREATE TABLE named (name BLOB PRIMARY KEY, value) WITHOUT ROWID")
        self.update(pairs)

    def update(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """Set many; of those with the same name the last one stays. The table must not be used by the iterable."""
        self._put("REPLACE", pairs)

    def set_missing(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """The same, but what is there stays as it is."""
        self._put("IGNORE", pairs)

    def __setitem__(self, name: str, value: Any) -> None:
        self._put("REPLACE", [(name, value)])

    def get(self, name: str) -> Any:
        """The value, or None."""
        found = self._rows.one("SELECT value FROM named WHERE name = ?", (as_bytes(name),))
        return None if found is None else _unpacked(found[0])

    def __contains__(self, name: object) -> bool:
        held = self._rows.one("SELECT 1 FROM named WHERE name = ?", (as_bytes(str(name)),))
        return held is not None

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and values."""
        for name, value in self._rows.each("SELECT name, value FROM named ORDER BY name"):
            yield _text(name), _unpacked(value)

    def starting(self, start: str) -> list[str]:
        """Names that start with a text, which is not empty."""
        ends = _from_to(start)
        found = self._rows.all("SELECT name FROM named WHERE name >= ? AND name < ? ORDER BY name", ends)
        return [_text(name) for (name,) in found]

    def _put(self, known: str, pairs: Iterable[tuple[str, Any]]) -> None:
        packed = ((as_bytes(name), _packed(value)) for name, value in pairs)
        self._rows.add_all(f"INSERT OR {known} INTO named VALUES (?, ?)", packed)


class Lines:
    """Lines of text under a name, several under each."""

    def __init__(self) -> None:
        self._rows = Database(
            "CREATE TABLE lines (number INTEGER PRIMARY KEY, line TEXT)",
            "CREATE TABLE names (name BLOB, number INTEGER, PRIMARY KEY (name, number)) WITHOUT ROWID",
        )

    def add(self, names: Iterable[str], line: str) -> None:
        """Put a line under some names."""
        number = self._rows.add("INSERT INTO lines (line) VALUES (?)", (line,))
        for name in names:
            self._rows.add("INSERT OR IGNORE INTO names VALUES (?, ?)", (as_bytes(name), number))

    def of(self, name: str) -> list[str]:
        """The lines under a name, in the order in which they came."""
        found = self._rows.all(
            "SELECT line FROM names JOIN lines USING (number) WHERE name = ? ORDER BY number", (as_bytes(name),)
        )
        return [line for (line,) in found]

    def names(self, start: str) -> Iterator[str]:
        """Every name once that starts with a text, which is not empty."""
        ends = _from_to(start)
        for (name,) in self._rows.each(
            "SELECT DISTINCT name FROM names WHERE name >= ? AND name < ? ORDER BY name", ends
        ):
            yield _text(name)

    def clear(self) -> None:
        """Forget all."""
        self._rows.all("DELETE FROM lines")
        self._rows.all("DELETE FROM names")


def _packed(value: Any) -> Any:
    return as_bytes(value) if isinstance(value, str) else value  # also what is not UTF-8


def _unpacked(value: Any) -> Any:
    return _text(value) if isinstance(value, bytes) else value


def as_bytes(name: str) -> bytes:
    """A name as SQLite takes it, in the order of Python's: that of a file may hold what cannot be encoded."""
    return name.encode("utf-8", "surrogatepass")


def _from_to(start: str) -> tuple[bytes, bytes]:
    """The first name that starts with a text, and the first that comes after all of these."""
    low = as_bytes(start)
    return low, low[:-1] + bytes([low[-1] + 1])  # 255 is no byte of a name


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")
