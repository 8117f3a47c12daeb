"""Files for clusters: they hold together, though no cluster is here to run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ichseg.cli import build_parser
from ichseg.folder import Shard

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
JOBS = sorted([*DEPLOY.glob("slurm/*"), *DEPLOY.glob("pbs/*")])


@pytest.mark.parametrize("file", JOBS, ids=lambda path: path.name)
def test_job_files_are_scripts(file):
    subprocess.run(["bash", "-n", str(file)], check=True)


@pytest.mark.parametrize(("code", "job"), [(0, 0), (1, 0), (2, 2), (130, 130)])
@pytest.mark.parametrize("file", ["slurm/segment.sbatch", "pbs/segment.pbs"])
def test_a_job_fails_only_for_what_is_no_scan(file, code, job, tmp_path):
    """Scans that fail are told in the tables; a job that ends with 1 would be taken for lost."""
    fake = tmp_path / "ichseg"
    fake.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/words\nexit {code}\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SCANS": "/a b", "MASKS": "/c", "OPTIONS": "--precision bf16"}
    assert subprocess.run(["bash", str(DEPLOY / file)], env=environment, check=False).returncode == job
    words = (tmp_path / "words").read_text().split(" /c ")[1].split()
    args = build_parser().parse_args(["segment", "/a b", "/c", *words])
    assert Shard.parse(args.shard, {"SLURM_ARRAY_TASK_ID": "16"}) == Shard(16, 16) and args.precision == "bf16"


def test_kubernetes_files(tmp_path):
    job = yaml.safe_load((DEPLOY / "kubernetes/segment.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    shard = re.search(r"--shard (\S+)", container["command"][2])[1]
    assert Shard.parse(shard, {"JOB_COMPLETION_INDEX": "15"}) == Shard(16, job["completions"])
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    cluster = yaml.safe_load((DEPLOY / "kubernetes/dask.yaml").read_text())["spec"]
    mounts = [{m["name"] for m in one["volumeMounts"]} for one in (container, *cluster["worker"]["spec"]["containers"])]
    assert mounts[0] == mounts[1] == {volume["name"] for volume in job["template"]["spec"]["volumes"]}


def test_workers_as_jobs(tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(DEPLOY / "dask"))
    import jobqueue

    for name, word in (("slurm", "#SBATCH --cpus-per-task=4"), ("pbs", "#PBS -l select=1:ncpus=4:mem=3gb")):
        with jobqueue.workers_as_jobs(name) as cluster:
            script = cluster.job_script()
        assert word in script and "--nthreads 1" in script and "OMP_NUM_THREADS=4" in script
    assert (tmp_path / "scheduler.json").is_file()
    told = subprocess.run(
        [sys.executable, str(DEPLOY / "dask/jobqueue.py")], capture_output=True, text=True, check=False
    )
    assert told.returncode == 1 and "jobqueue.py slurm 32" in told.stderr
