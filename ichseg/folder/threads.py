"""Read the next scan and write the last one while the network works on this one, with threads and nothing else."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch

END = object()


def run_overlapped(
    cases: Iterable[Any],
    read: Callable[[Any], Any],
    work: Callable[[Any], Any],
    finish: Callable[[Any], None],
    at_once: int = 2,
) -> None:
    """``finish(work(read(case)))`` for every case, in order: ``read`` and ``finish`` in a thread each, ``work`` here.

    Args:
        cases: what ``read`` takes.
        read, work, finish: what they raise ends the run and is raised here, after the threads have ended.
        at_once: how many cases may be in memory.
    """
    room, stop = threading.BoundedSemaphore(at_once), threading.Event()
    to_work: queue.Queue[Any] = queue.Queue()
    to_finish: queue.Queue[Any] = queue.Queue()
    raised: list[BaseException] = []

    def reading() -> None:
        for case in cases:
            room.acquire()
            if stop.is_set():
                break
            to_work.put(read(case))
        to_work.put(END)

    def finishing() -> None:
        while (item := to_finish.get()) is not END:
            finish(item)
            del item  # before the next is waited for: one case in memory less
            room.release()

    def guarded(steps: Callable[[], None]) -> None:
        torch.set_num_threads(1)  # this thread's own; the network keeps its threads
        try:
            steps()
        except BaseException as error:  # raised again by the caller's thread
            raised.append(error)
            stop.set()
            to_work.put(END)

    threads = [threading.Thread(target=guarded, args=(steps,), daemon=True) for steps in (reading, finishing)]
    for thread in threads:
        thread.start()
    try:
        while (item := to_work.get()) is not END and not stop.is_set():
            to_finish.put(work(item))
            del item
    finally:
        stop.set()
        to_finish.put(END)
        threads[1].join()
        _let_go(room)
        threads[0].join()
    if raised:
        raise raised[0]


def run_in_turn(
    cases: Iterable[Any],
    read: Callable[[Any], Any],
    work: Callable[[Any], Any],
    finish: Callable[[Any], None],
) -> None:
    """The same, one case after the other in this thread: for steps that use the network in ``finish`` too."""
    for case in cases:
        finish(work(read(case)))


def _let_go(room: threading.BoundedSemaphore) -> None:
    try:
        room.release()  # a reader that waits sees that it should stop
    except ValueError:
        return  # nobody waits
