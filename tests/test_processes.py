"""Several processes that train one network: the mathematics of one, and going on when one of them is lost."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import segmenter_file
from forked import run_module, run_together, start_module

from ichseg.bundle import bundle_folder
from ichseg.errors import IchsegError
from ichseg.networks import segmenter_settings
from ichseg.processes import check_same_files
from ichseg.synthetic.phantom import prepare_phantom


@pytest.fixture
def cohort(tmp_path):
    prepare_phantom(tmp_path / "data", scans=10, seed=2, size=96, slices=8)
    return tmp_path / "data" / "datalist.json"


# Adam makes a step of full size of a gradient that is nothing but rounding; this one follows the gradient.
PLAIN = {"optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 1e-4}}
# An epoch's slices in the order in which several processes share them.
ALONE = {
    "train::sampler": {"_target_": "DistributedSampler", "dataset": "@train::dataset", "shuffle": True,
                       "seed": "@seed", "num_replicas": 1, "rank": 0},
    "train::dataloader::shuffle": False,
}  # fmt: skip
# Dropout alone has other random numbers.
WITHOUT_DROPOUT = "$[setattr(m, 'p', 0.0) for m in @network.modules() if type(m).__name__ == 'Dropout']"
START = ["@overrides_check", "@device", {"_target_": "monai.utils.set_determinism", "seed": "@seed"}, WITHOUT_DROPOUT]
STILL = {"horizontal_flip": 0, "vertical_flip": 0}
CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "recommended": ("ich_segmentation", "train_recommended.yaml",
                    {"architecture": "context", "steps_per_epoch": 3, "size": 64,
                     "implants_per_scan": 2, "num_workers": 0, "teach_after": 0.5, "sure": 0.5, "unsure": 0.45}),
    "paper": ("ich_segmentation", "train_paper.yaml", {"size": 64, "supervision": "masks", **STILL}),
    "masks": ("ich_segmentation", "train.yaml", {"augment": 0}),
    "classifier": ("ich_slice_classification", "train.yaml",
                   {"size": 64, "backbone": "resnet34", "augment_probability": 0, "implant_probability": 1e-9}),
}  # fmt: skip


def trained(name: str, processes: int, phantoms: Path, out: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Weights after an epoch of a batch of 8 over all processes, and the epoch's line of the history."""
    bundle, config, values = CONFIGS[name]
    folder = bundle_folder(bundle)
    own = {
        **values,
        **PLAIN,
        "initialize": START,
        "dataset_dir": str(phantoms),
        "output_dir": str(out),
        "epochs": 1,
        "val_folds": [4],
    }
    own["batch_size"] = 8 // processes
    if name == "masks":
        start = out.parent / "start.pt"
        own["init_weights"] = str(start if start.is_file() else segmenter_file(start))
    files = [str(folder / "configs" / config)]
    if processes > 1:
        files.append(str(folder / "configs" / "multi_gpu_train.yaml"))
    elif name != "recommended":
        own |= ALONE
    files.append(str(out.parent / f"{processes}.yaml"))
    Path(files[-1]).write_text(yaml.safe_dump(own))
    words = [
        "monai.bundle",
        "run",
        "--bundle_root",
        str(folder),
        "--config_file",
        str(files),
        "--logging_file",
        "False",
    ]
    run_together(words, processes)
    (line,) = csv.DictReader((out / "history.csv").open())
    return torch.load(out / "checkpoint.pt", weights_only=True)["network"], line


TWO_FOLDERS = """
import torch.distributed as dist
from ichseg.errors import IchsegError
from ichseg.processes import check_same_files
dist.init_process_group("gloo")
check_same_files("out", (1, "a"))
try:
    check_same_files("out/checkpoint.pt", None if dist.get_rank() else 3)
except IchsegError as error:
    print(error, flush=True)
dist.destroy_process_group()
"""


def test_processes_that_see_different_files_are_told_apart(tmp_path):
    (tmp_path / "two.py").write_text(TWO_FOLDERS)
    words = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "two.py")]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    assert done.stdout.count("out/checkpoint.pt: not the same for all processes") == 2, done.stderr
    check_same_files("out", "alone")


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_train_as_one(name, phantoms, tmp_path):
    (weights, line), (other, its) = (trained(name, n, phantoms, tmp_path / f"out{n}") for n in (1, 2))
    # Rounding grows from step to step; a loss over half of the batch would differ by far more.
    assert float(line["train_loss"]) == pytest.approx(float(its["train_loss"]), rel=5e-3)
    far = [(weights[key] - other[key]).double().square().sum() for key in weights]
    size = [value.double().square().sum() for value in weights.values()]
    assert float(sum(far) / sum(size)) ** 0.5 < 1e-3


# A whole step of the recommended preset's network, in double precision, where nothing is lost to rounding.
STEP = """
import sys
import torch
from ichseg.networks import context_network
from ichseg.processes import place_and_count
from ichseg.training import WholeBatchLoss, data_parallel, join_process_group, leave_process_group

several = sys.argv[1] == "2"
if several:
    join_process_group()
place, count = place_and_count()
torch.manual_seed(0)
network = context_network("lite", dropout=0.0, encoder_weights=None).double()
images = torch.rand(8, 3, 64, 64).double()
truth = torch.rand(8, 64, 64) > torch.linspace(0, 1, 8)[:, None, None]

def dice(logits, target):
    found = logits[:, 1].sigmoid()
    return 1 - 2 * (found * target["truth"]).sum() / (found.sum() + target["truth"].sum())

spread = data_parallel(network) if several else network
loss = WholeBatchLoss(dice)(spread(images[place::count]), {"truth": truth[place::count]})
loss.backward()
if place == 0:
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    torch.save([loss.detach(), gradients, dict(network.named_buffers())], sys.argv[2])
leave_process_group()
"""


@pytest.mark.slow
def test_a_step_of_two_processes_is_exact(tmp_path):
    (tmp_path / "step.py").write_text(STEP)
    for count in (1, 2):
        run_together(["step", str(count), f"{count}.pt"], count, tmp_path)
    (loss, gradients, buffers), (its, other, statistics) = (
        torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2)
    )
    torch.testing.assert_close(its, loss, rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        # A bias before batch norm has no gradient but rounding.
        torch.testing.assert_close(other[name], gradient, rtol=1e-6, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")
    for name, values in buffers.items():
        torch.testing.assert_close(statistics[name], values, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_the_preset_goes_on_after_a_lost_process(cohort, tmp_path):
    """``ichseg train`` by torchrun: one process is killed after an epoch, all start again from its checkpoint."""
    words = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=1", "-m", "ichseg", "train",
              "--datalist", str(cohort), "--output", str(tmp_path / "out"), "--epochs", "3",
             "--batch-size", "4", "--size", "64", "--workers", "0", "--set", "architecture=context",
             "--set", "implants_per_scan=2", "--set", "steps_per_epoch=6"]  # fmt: skip
    run = start_module(words, err=tmp_path / "said")
    limit = time.time() + 300
    while not (tmp_path / "out" / "member_0" / "checkpoint.pt").is_file() and run.is_alive() and time.time() < limit:
        time.sleep(0.02)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    run.join(300)
    said = (tmp_path / "said").read_text()
    assert run.exitcode == 0, said[-3000:]
    assert said.count("exitcode") == 1 and said.count("resumed") == 1
    assert "looks like a bug" not in said  # the other one is ended by torchrun, or sees it first
    with (tmp_path / "out" / "member_0" / "history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    assert segmenter_settings(tmp_path / "out" / "model.pt").size == 64
    assert (tmp_path / "out" / "results" / "detection.json").is_file()
    # What is finished, one process takes as it is.
    alone = run_module(words[words.index("ichseg") :])
    assert alone.returncode == 0 and "U-Net" not in alone.stderr


@pytest.mark.parametrize(
    ("name", "gpus", "said"),
    [
        ("cuda:1", 2, "device 'cuda:1': with torchrun, each process has a GPU of its own; use auto, cpu or cuda"),
        ("gpu", 0, "process 1 has no GPU: 0 found"),
        ("auto", 1, "process 1 has no GPU: 1 found"),
        ("auto", 0, "joined gloo"),
        ("cpu", 2, "joined gloo"),
        ("gpu", 2, "joined nccl"),
    ],
)
def test_the_device_of_several_processes(monkeypatch, name, gpus, said):
    from ichseg.training import distributed

    def joined(backend, **_):
        raise IchsegError(f"joined {backend}")

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(distributed, "rendezvous", lambda _: iter([(None, 1, 2)]))
    monkeypatch.setattr(distributed.dist, "init_process_group", joined)
    with pytest.raises(IchsegError, match=f"^{said}"):
        distributed.join_process_group(name)
