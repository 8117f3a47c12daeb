"""A folder's scans on the workers of a Dask cluster, with one journal, one table and one report as in a run here."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ichseg.bundle import given_values
from ichseg.errors import IchsegError
from ichseg.folder.configured import configured_runner
from ichseg.folder.journal import Journal
from ichseg.folder.memory import return_freed_memory
from ichseg.folder.worker_journal import WorkerJournal
from ichseg.io.urls import source_of
from ichseg.logs import hush_monai
from ichseg.provenance import network_hash, value_hash

logger = logging.getLogger(__name__)

BATCH = 4  # scans in a task: few, so that a lost worker or a slow one costs little
AHEAD = 2  # tasks per worker that are sent out: one that runs and the next one
PATIENCE_S = 300.0  # for a scheduler that is restarted or a share that is gone
LOOK_S = 2.0
CONNECT_S = 10.0
GPU = "GPU"  # the resource by which workers say that they have one


@dataclass(frozen=True)
class Work:
    """What a worker needs to know of a run, besides its scans.

    Attributes:
        bundle, config, values: of the config that runs, see :class:`ichseg.bundle.BundleParts`.
        run: hash that the worker must come to as well: weights, settings and versions are then the same.
        folders: that must be there.
    """

    bundle: str
    config: str
    values: Mapping[str, Any]
    run: str
    folders: tuple[str, ...]

    @property
    def key(self) -> str:
        return value_hash([self.bundle, self.config, {k: str(v) for k, v in self.values.items()}, self.run])


class _Waiting:
    """Batches of scans that nobody works on: first those given back, then those that have not been sent yet."""

    def __init__(self, todo: Sequence[int], size: int) -> None:
        self._back: deque[Sequence[int]] = deque()
        self._todo, self._size, self._next = todo, size, 0

    def __bool__(self) -> bool:
        return bool(self._back) or self._next < len(self._todo)

    def first(self) -> Sequence[int]:
        return self._back[0] if self._back else self._todo[self._next : self._next + self._size]

    def pop(self) -> Sequence[int]:
        batch = self.first()
        if self._back:
            self._back.popleft()
        else:
            self._next += self._size
        return batch

    def give_back(self, batches: Iterable[Sequence[int]]) -> None:
        self._back.extendleft(batches)


@dataclass
class DaskEngine:
    """Does the scans of a :class:`ichseg.folder.FolderRunner` on Dask workers.

    Every worker process loads the model once, writes the outputs where this process would, and keeps a journal of its
    own in the output folder; workers need the same ichseg and the same paths. A worker that is lost costs the scans
    it had at hand, which another does again; a scan that takes several workers with it fails.

    Args:
        bundle, config, values: that the runner was made of.
        scheduler: address, such as ``tcp://host:8786``, or a file that the scheduler wrote; None starts a cluster on
            this machine.
        workers: processes of that cluster; None: one for each core.
        on_gpu: only workers started with ``--resources "GPU=1"`` get work.
        batch: scans in a task.
        patience_s: how long to wait for a scheduler or a share that is gone.
    """

    bundle: str
    config: str
    values: Mapping[str, Any]
    scheduler: str | None = None
    workers: int | None = None
    on_gpu: bool = False
    batch: int = BATCH
    patience_s: float = PATIENCE_S
    _number: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        try:
            import distributed
        except ImportError:
            raise IchsegError('--engine dask needs a package: pip install "ichseg[dask]"') from None
        self._distributed = distributed
        for name in list(logging.root.manager.loggerDict):
            if name.split(".")[0] == "distributed":  # comings and goings; what matters is told here
                logging.getLogger(name).setLevel(logging.CRITICAL)

    def __call__(self, runner: Any, todo: Sequence[int], take: Callable[[int, dict[str, Any]], None]) -> None:
        """Do the scans with these numbers; ``take`` gets each one's row.

        Raises:
            IchsegError: no scheduler, workers that would make something else, or a folder that cannot be written to.
        """
        if not todo:
            return
        journal: Journal = runner.journal
        first = runner.dataset.data[todo[0]]
        place = Path(source_of(first))
        inputs = [str(folder) for folder in (place, place.parent) if folder.is_dir()][:1]
        work = Work(self.bundle, self.config, self.values, journal.run, (str(runner.output_dir), *inputs))
        size = max(1, min(self.batch, len(todo) // (2 * (self.workers or os.cpu_count() or 1))))
        waiting = _Waiting(todo, size)
        with contextlib.ExitStack() as stack:
            cluster = None if self.scheduler else stack.enter_context(self._local_cluster())
            while waiting:
                with self._client(cluster) as client:
                    self._work_off(client, work, waiting, runner, take)

    def _work_off(
        self,
        client: Any,
        work: Work,
        waiting: _Waiting,
        runner: Any,
        take: Callable[[int, dict[str, Any]], None],
    ) -> None:
        """Until nothing is left, or the scheduler is gone: what was sent to it then waits again."""
        sent: dict[Any, Sequence[int]] = {}
        done = self._distributed.as_completed(loop=client.loop)
        told, workers, asked = False, 0, 0.0
        try:
            while waiting or sent:
                if not workers or time.monotonic() - asked > LOOK_S:  # each time is a round trip
                    workers, asked = len(client.scheduler_info(n_workers=-1)["workers"]), time.monotonic()
                while waiting and len(sent) < AHEAD * max(workers, 1):
                    future = self._submit(client, work, waiting.first(), runner)
                    sent[future] = waiting.pop()
                    done.add(future)
                if not told and not workers:
                    logger.info("waiting for workers of %s", client.scheduler.address)
                    told = True
                future = next(done)
                rows = self._rows(future, sent[future])
                numbers = sent.pop(future)
                if rows is None:  # one of them takes workers with it; which?
                    waiting.give_back([number] for number in numbers)
                else:
                    for number, row in zip(numbers, rows, strict=True):
                        take(number, row)
                future.release()
        except (OSError, self._distributed.client.FutureCancelledError, StopIteration) as error:
            if not self._is_gone(error, client):
                raise
            waiting.give_back(sent.values())
            logger.warning("the connection to the scheduler was lost; trying again")

    def _rows(self, future: Any, numbers: Sequence[int]) -> list[dict[str, Any]] | None:
        """Of a task that has ended; None if several workers died over it and it has more than one scan."""
        try:
            return future.result()
        except self._distributed.KilledWorker:
            if len(numbers) > 1:
                return None
            message = "its worker died each time it was tried; out of memory?"
            return [{"status": "failed", "stage": "network", "message": message}]

    def _submit(self, client: Any, work: Work, numbers: Sequence[int], runner: Any) -> Any:
        self._number += 1
        cases = [dict(runner.dataset.data[number]) for number in numbers]
        names = [str(case["case"]) for case in cases]
        known = [runner.journal.known_of(name) for name in names]
        inputs = [path for name in names for path in runner.inputs_below(name)]
        options: dict[str, Any] = {"resources": {GPU: 1}} if self.on_gpu else {}
        return client.submit(
            do_work, work, cases, known, inputs, self.patience_s, pure=False,
            key=f"ichseg-segment-{os.getpid()}-{self._number}", **options,
        )  # fmt: skip

    @contextlib.contextmanager
    def _client(self, cluster: Any) -> Iterator[Any]:
        """A connection, waited for: a scheduler may be about to start, or to start again."""
        if cluster is not None:
            where = {"address": cluster}
        elif self.scheduler and Path(self.scheduler).is_file():
            where = {"scheduler_file": self.scheduler}
        else:
            where = {"address": self.scheduler}
        until, told = time.monotonic() + self.patience_s, False
        while True:
            try:
                client = self._distributed.Client(**where, timeout=CONNECT_S, set_as_default=False)
                break
            except (OSError, TimeoutError, ValueError) as error:
                if time.monotonic() > until or isinstance(error, ValueError):
                    raise IchsegError(f"no Dask scheduler at {self.scheduler}: {error}") from None
                if not told:
                    wait = f"waiting up to {self.patience_s:.0f} s"
                    logger.info("no answer from a Dask scheduler at %s; %s", self.scheduler or cluster, wait)
                told = True
                time.sleep(LOOK_S)
        if dashboard := client.dashboard_link:
            logger.info("dashboard: %s", dashboard)
        try:
            yield client
        finally:
            with contextlib.suppress(OSError, TimeoutError):
                client.close(timeout=5)

    @contextlib.contextmanager
    def _local_cluster(self) -> Iterator[Any]:
        count = self.workers or os.cpu_count() or 1
        with (
            tempfile.TemporaryDirectory(prefix="ichseg-dask-") as folder,
            self._distributed.LocalCluster(
                n_workers=count, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0",
                local_directory=folder, silence_logs=logging.CRITICAL, resources={GPU: 1} if self.on_gpu else None,
            ) as cluster,
        ):  # fmt: skip
            yield cluster

    def _is_gone(self, error: BaseException, client: Any) -> bool:
        """True if what was raised means the scheduler, and not a folder or a scan."""
        if isinstance(error, StopIteration | self._distributed.client.FutureCancelledError):
            return True
        return isinstance(error, self._distributed.comm.CommClosedError) or client.status != "running"


def run_on_dask(
    bundle: str, config: str, overrides: Mapping[str, Any], settings: Sequence[str] = (), **engine: Any
) -> None:
    """:func:`ichseg.bundle.run_bundle` of a config with a folder runner, on Dask workers.

    Args:
        bundle, config, overrides, settings: as there.
        **engine: of :class:`DaskEngine`.
    """
    given = given_values(bundle, config, overrides, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hush_monai()
        made = DaskEngine(bundle, config, given, **engine)
        runner = configured_runner(bundle, config, given)
        runner.engine = made
        runner.run()
        runner.exit_if_failed()


# --- on the workers ---------------------------------------------------------------------------------------------------
_RUNNERS: dict[str, Any] = {}
_ONE_AT_A_TIME = threading.Lock()  # a worker with several threads has one model


def do_work(
    work: Work, cases: list[dict[str, Any]], known: list[dict[str, Any]], inputs: list[str], patience_s: float
) -> list[dict[str, Any]]:
    """Do scans in a worker process; returns their rows.

    Raises:
        IchsegError: this worker would make something else than the run that asks.
        OSError: no room is left, or the output folder is read-only.
    """
    with _ONE_AT_A_TIME:
        _wait_for(work.folders, patience_s)
        if work.key not in _RUNNERS:
            _RUNNERS.clear()  # one model at a time
            _RUNNERS[work.key] = _start(work)
        runner = _RUNNERS[work.key]
        runner.journal.know(known)
        rows = runner.do(cases, inputs)
        again = [n for n, row in enumerate(rows) if row["status"] == "failed" and row["stage"] in ("read", "write")]
        if again and not _there(work.folders):  # a share that went away meanwhile
            _wait_for(work.folders, patience_s)
            for number, row in zip(again, runner.do([cases[n] for n in again], inputs), strict=True):
                rows[number] = row
        return rows


def _start(work: Work) -> Any:
    warnings.simplefilter("ignore")  # what MONAI warns of when it is imported
    hush_monai()
    return_freed_memory()
    runner = configured_runner(work.bundle, work.config, work.values, [])
    # With one thread a worker has one core: reading the next scan meanwhile would slow down the worker beside it.
    runner.overlap = runner.overlap and (runner.device.type != "cpu" or _threads() > 1)
    journal = WorkerJournal(runner.journal, f"{socket.gethostname()}-{os.getpid()}")
    journal.join(runner.settings(), network_hash(runner.network))
    if journal.run != work.run:
        raise IchsegError(
            f"the Dask worker on {socket.gethostname()} would produce different masks from this process; install the "
            "same versions of ichseg, MONAI and torch on both"
        )
    runner.journal = journal
    return runner


def _threads() -> int:
    """Of this Dask worker."""
    from distributed import get_worker

    return int(get_worker().state.nthreads)


def _there(folders: Sequence[str]) -> bool:
    """True if folders can be read: those of a share that hangs or is gone cannot."""
    try:
        for folder in folders:
            os.scandir(folder).close()
    except OSError:
        return False
    return True


def _wait_for(folders: Sequence[str], patience_s: float) -> None:
    until = time.monotonic() + patience_s
    while not _there(folders) and time.monotonic() < until:
        time.sleep(LOOK_S)
