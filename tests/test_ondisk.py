"""What a run keeps on disk in place of memory."""

from __future__ import annotations

import copy
import errno
import json
import pickle
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ichseg.folder import Results
from ichseg.folder.ondisk import AT_ONCE, Database, Items, Lines, Table

ODD = "scans/\udcff\u00e9'; --"  # a name that is not UTF-8, as os.fsdecode gives it


def test_items_are_a_list():
    made = [{"case": str(number), "image": ODD, "dicom": {"slabs": [1, 2.5]}} for number in range(AT_ONCE + 5)]
    items = Items(iter(made))
    assert list(items) == made and len(items) == len(made)
    assert items[0] == made[0] and items[-1] == made[-1] and items[3:9:2] == made[3:9:2]
    for outside in (len(made), -len(made) - 1):
        with pytest.raises(IndexError):
            items[outside]
    assert list(Items()) == [] and not Items()


def test_items_for_another_process():
    items = Items([{"case": "a"}, {"case": "b"}])
    assert list(pickle.loads(pickle.dumps(items))) == list(items) == list(copy.deepcopy(items))
    assert items[np.int64(1)] == {"case": "b"}
    with pytest.raises(TypeError):
        items["1"]


def test_names_come_in_order():
    table = Table([("b/2", 1), ("a", None), (ODD, ODD), ("b/2", 7)])
    table["b/10"] = "x"
    assert list(table.items()) == [("a", None), ("b/10", "x"), ("b/2", 7), (ODD, ODD)]
    assert "a" in table and table.get("a") is None and "c" not in table and table.get("c") is None
    assert table.starting("b/") == ["b/10", "b/2"] and table.starting("b/1") == ["b/10"] and table.starting("c") == []
    table.update((name, 0) for name in ("a", "z"))
    table.set_missing((name, 1) for name in ("a", "y"))
    assert table.get("a") == 0 and table.get("b/2") == 7 and table.get("y") == 1
    last = "b/\udcff"  # as names of files end in any byte
    table[f"{last}x"] = 2
    assert table.starting(last) == [f"{last}x"]


def test_lines_come_in_order_under_every_name():
    lines = Lines()
    for number in range(3):
        lines.add(["x", ODD] if number else ["x"], str(number))
    assert lines.of("x") == ["0", "1", "2"] and lines.of(ODD) == ["1", "2"] and lines.of("y") == []
    assert list(lines.names("s")) == [ODD] and list(lines.names("x")) == ["x"] and list(lines.names("xy")) == []
    lines.clear()
    assert lines.of("x") == [] and list(lines.names("x")) == []


def test_threads_share_a_table():
    table = Table()

    def put(start: int) -> None:
        for number in range(start, start + 300):
            table[str(number)] = number
            assert table.get(str(number)) == number

    threads = [threading.Thread(target=put, args=(300 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(1 for _ in table.items()) == 1200


def test_a_full_disk_is_an_error_of_the_system():
    database = Database("CREATE TABLE t (x)", "PRAGMA max_page_count=3")
    with pytest.raises(OSError, match="database or disk is full") as raised:
        database.add_all("INSERT INTO t VALUES (?)", (["x" * 1000] for _ in range(100)))
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == "temporary files"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks the system which files are open")
def test_much_is_in_a_file_that_goes_with_its_owner():
    def files() -> int:
        opened = [link.readlink().name for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return sum(name.startswith("etilqs") for name in opened)

    before = files()
    items = Items({"case": "x" * 1000} for _ in range(5000))
    assert files() == before + 1
    del items
    assert files() == before


def test_rows_take_no_memory(tmp_path):
    """A thousand rows more are a thousand rows on disk."""

    def held(count: int) -> int:
        tracemalloc.start()
        results = Results(tmp_path, (str(number) for number in range(count)))
        for number in reversed(range(count)):
            results.add({"case": str(number), "file": str(number), "status": "ok", "probability": number / count,
                         "volume_ml": 1.0, "lesions": 1, "message": "x" * 500}, write=False)  # fmt: skip
        results.write()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = held(2 * AT_ONCE), held(6 * AT_ONCE)
    assert many < few + 100_000
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == [str(number) for number in range(6 * AT_ONCE)], "in the order given"
    assert [row["priority"] for row in rows] == list(range(6 * AT_ONCE, 0, -1)), "the most probable one first"


def test_odd_numbers_of_an_edited_table(tmp_path):
    results = Results(tmp_path)
    for number, odd in enumerate([10**20, 10**400, float("nan"), "many", None, 0.5]):
        row = {"case": str(number), "file": str(number), "status": "failed", "probability": odd, "volume_ml": odd}
        results.add({**row, "priority": 7}, write=False)
    results.write()
    assert [row.get("priority") for row in results.prioritized()] == [1, None, None, None, None, 2]


def test_rows_can_be_looked_up(tmp_path):
    results = Results(tmp_path, ["b", "a"])
    for file in ("a", "b"):
        results.add({"case": file, "file": file, "status": "ok", "reused": file == "a"}, write=False)
    assert [row["file"] for row in results.rows] == ["b", "a"] and results.rows[-1]["file"] == "a"
    assert results.rows[::-1] == list(results.rows)[::-1] == list(reversed(results.rows)) and len(results.rows) == 2
    assert results.summary() == "2 ok (1 reused from an earlier run)" and results.count("failed") == 0
    with pytest.raises(KeyError):
        results.add({"case": "c", "file": "c", "status": "ok"})
