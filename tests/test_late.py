"""Imports that wait or are left out: nothing is missing afterwards, and commands that need no network start fast."""

from __future__ import annotations

import json
import subprocess
import sys
import typing

import nibabel as nib
import numpy as np
import pytest
from scipy.signal import find_peaks

import ichseg
from ichseg.check.names import resolved
from ichseg.io.hounsfield import prominent_peaks
from ichseg.late import UNUSED, imported_late


def in_new_process(code: str, *arguments: object) -> str:
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_monai_without_its_unused_parts_is_complete_for_segmenting():
    told = in_new_process(
        "import sys, ichseg.late as late; late.import_monai(); loaded = set(sys.modules); import monai, ignite.engine;"
        "from monai.engines import SupervisedEvaluator; assert issubclass(SupervisedEvaluator, ignite.engine.Engine);"
        "assert not loaded & set(late.UNUSED), loaded & set(late.UNUSED);"
        "from ichseg.bundle import BundleParts; from ichseg.networks import segmenter;"
        "from torch.distributed.optim import ZeroRedundancyOptimizer; from scipy.signal import hilbert;"
        "import matplotlib.pyplot; print(ZeroRedundancyOptimizer.__mro__[1].__name__)"
    )
    assert told.strip() == "Optimizer"


def test_what_is_there_already_stays():
    told = in_new_process(
        "import sys, scipy.signal, ichseg.late as late; before = scipy.signal; late.import_monai();"
        "assert sys.modules['scipy.signal'] is before; from monai.transforms.signal.array import has_iirnotch;"
        "assert has_iirnotch; late.import_monai(); print(sorted(set(late.UNUSED) & set(sys.modules)))"
    )
    assert told.strip() == "['scipy.signal']"


def test_an_interruption_while_importing_ends_with_one_line():
    code = ("import os, signal, time, ichseg.late as late\n"
            "with late._ended_at_once():\n    os.kill(os.getpid(), signal.SIGINT); time.sleep(5)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "ichseg: interrupted; rerun the same command to resume\n"
    in_new_process("import signal, ichseg.late as late; late.import_monai();"
                   "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler")  # fmt: skip


def test_an_interruption_that_a_library_wraps_is_one(monkeypatch, capsys):
    from ichseg import cli
    from ichseg.cli import status

    def run(args):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("cannot be resolved") from error

    monkeypatch.setattr(status, "run", run)
    assert cli.main(["status", "x"]) == 130
    assert capsys.readouterr().err == "ichseg: interrupted; rerun the same command to resume\n"


def test_a_second_thread_waits_for_the_first():
    in_new_process(
        "import threading, ichseg.late as late; failed = [];\n"
        "def use():\n"
        "    late.import_monai()\n"
        "    try:\n"
        "        from monai.transforms import Compose\n"
        "        from ichseg.folder import FolderRunner\n"
        "    except ImportError as error:\n"
        "        failed.append(error)\n"
        "threads = [threading.Thread(target=use) for _ in range(3)]\n"
        "[thread.start() for thread in threads], [thread.join() for thread in threads]\n"
        "assert not failed, failed"
    )


def test_segmenting_leaves_them_out(tmp_path):
    """The command starts without them, and nothing of ours brings them in later."""
    from ichseg.synthetic.phantom import prepare_phantom

    prepare_phantom(tmp_path / "phantoms", scans=5, seed=0, size=64, slices=4)
    told = in_new_process(
        "import sys; from ichseg.cli import main; code = main(sys.argv[1:]);"
        f"print(code, sorted({set(UNUSED)} & set(sys.modules)))",
        "segment", tmp_path / "phantoms" / "images", tmp_path / "masks", "--device", "cpu", "--size", "64",
    )  # fmt: skip
    assert told.splitlines()[-1] == "0 []"


@pytest.fixture
def folder(tmp_path):
    """The output folder of a run with one mask."""
    mask = nib.Nifti1Image(np.ones((4, 4, 2), np.uint8), np.diag([1.0, 1.0, 5.0, 1.0]))
    nib.save(mask, tmp_path / "a_ich.nii.gz")
    row = {"case": "a", "status": "ok", "file": "a.nii.gz", "seconds": 1.0, "volume_ml": 0.0, "lesions": 0}
    (tmp_path / "results-1of1.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "journal-1of1.jsonl").write_text('{"run": "a", "started": "2026-01-01T00:00:00+00:00"}\n')
    return tmp_path


@pytest.mark.parametrize("command", ["status", "measure", "merge"])
def test_commands_without_a_network_import_neither_torch_nor_monai(folder, command):
    told = in_new_process(
        "import sys; from ichseg.cli import main; code = main(sys.argv[1:]);"
        "print(code, [name for name in ('torch', 'monai') if name in sys.modules])",
        command, folder,
    )  # fmt: skip
    assert told.splitlines()[-1] in ("0 []", "1 []"), told


def test_unknown_names_are_told():
    with pytest.raises(AttributeError, match=r"module 'ichseg\.data' has no attribute 'nothing'"):
        imported_late("ichseg.data", {})("nothing")


@pytest.mark.parametrize(
    ("meant", "named"), [("ichseg.folder.FolderRuner", "FolderRunner"), ("ichseg.metrics.dicee", "dice")]
)
def test_names_that_are_imported_late_are_suggested(meant, named):
    assert f"did you mean '{named}'?" in str(resolved(meant))


def test_types_of_the_python_calls_can_be_looked_up():
    assert {"mask", "image", "return"} <= set(typing.get_type_hints(ichseg.measure))


def test_names_that_are_modules_too_are_the_functions():
    import ichseg.report

    assert callable(ichseg.report.implant_montage)


@pytest.mark.parametrize("levels", [3, 10, 1000])
def test_peaks_are_those_of_scipy(levels):
    random = np.random.default_rng(levels)
    for length in (1, 2, 3, 5, 50, 400):
        for _ in range(20):
            heights = random.integers(0, levels, length).astype(float)
            places, found = find_peaks(heights, prominence=0)
            assert prominent_peaks(heights) == list(zip(places.tolist(), found["prominences"].tolist(), strict=True))
