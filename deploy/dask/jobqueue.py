"""Dask workers as jobs of Slurm or PBS, for 'ichseg segment --engine dask'.

python jobqueue.py slurm 32 &        # a scheduler here, 32 workers as jobs; its address is in scheduler.json
ichseg segment SCANS MASKS --engine dask --scheduler scheduler.json

Needs 'pip install dask-jobqueue', and folders that all nodes see under the same paths. Jobs that end or are lost are
replaced. Stop it when the run has ended.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from dask_jobqueue import PBSCluster, SLURMCluster

CLUSTERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "slurm": (SLURMCluster, {"job_cpu": 4}),
    "pbs": (PBSCluster, {"resource_spec": "select=1:ncpus=4:mem=3gb"}),
}


def workers_as_jobs(name: str) -> Any:
    """A cluster without workers yet."""
    kind, of_its_own = CLUSTERS[name]
    return kind(
        cores=1,  # one scan at a time in a process
        processes=1,
        memory="3GiB",
        **of_its_own,
        walltime="08:00:00",
        job_script_prologue=["export OMP_NUM_THREADS=4"],
        worker_extra_args=["--lifetime", "7h", "--lifetime-stagger", "30m"],  # end between scans, not within one
        scheduler_options={"scheduler_file": "scheduler.json"},
    )


def main() -> None:
    """Start a scheduler and workers, and keep them."""
    if len(sys.argv) != 3 or sys.argv[1] not in CLUSTERS or not sys.argv[2].isdigit():
        raise SystemExit(__doc__)
    cluster = workers_as_jobs(sys.argv[1])
    cluster.adapt(minimum=0, maximum=int(sys.argv[2]))
    sys.stdout.write(f"{cluster.scheduler_address}\n")
    sys.stdout.flush()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
