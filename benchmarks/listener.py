"""Many small studies pushed into ``ichseg listen`` at once: what is lost, what comes twice, and how memory grows.

The listener runs as a process of its own, with the shipped model, and sends to an archive in this one. Studies are
pushed over several associations at a time. Prints one JSON line.

    python benchmarks/listener.py --studies 1000
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pynetdicom
import torch
from measuring import commit, machine, processor_times, steal_share

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from broken_files import head
from dicom_files import image

CT, PLAIN = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
SLICES, SPACING = 6, 4.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def study(number: int) -> list[pydicom.Dataset]:
    """A head of six small slices, a little different each time; every other one with something bright in it."""
    volume = head((48, 56, SLICES)).astype(int)
    volume += np.random.default_rng(number).integers(-2, 3, volume.shape)
    if number % 2:
        volume[20:30, 20:30, 2:4] = 70
    half = SPACING * np.array(volume.shape[:2]) / 2
    series = f"1.2.826.0.1.{number}.1"
    return [
        image(
            volume[:, :, k].T, (-half[0], -half[1], 5.0 * k), f"1.2.826.0.1.{number}", series, k + 1,
            PixelSpacing=[SPACING, SPACING],
        )
        for k in range(SLICES)
    ]  # fmt: skip


class Sender:
    """A scanner that sends again what was not acknowledged."""

    def __init__(self, port: int) -> None:
        self.port, self.statuses, self.broken, self.slowest = port, Counter(), 0, 0.0
        self.entity = pynetdicom.AE("SCANNER")
        self.entity.add_requested_context(CT, [PLAIN])
        self.association = None

    def push(self, numbers: list[int]) -> Sender:
        """Send some studies, over one association unless it breaks."""
        for number in numbers:
            for one in study(number):
                while not self._sent(one):
                    self.broken += 1
        if self.association is not None:
            self.association.release()
        return self

    def _sent(self, one: pydicom.Dataset) -> bool:
        while self.association is None or not self.association.is_established:  # all places may be taken
            self.association = self.entity.associate("127.0.0.1", self.port, ae_title="ICHSEG")
            if not self.association.is_established:
                time.sleep(0.2)
        begun = time.monotonic()
        answer = self.association.send_c_store(one)
        self.slowest = max(self.slowest, time.monotonic() - begun)
        if "Status" not in answer:
            return False
        self.statuses[int(answer.Status)] += 1
        return True


def with_a(modality: str, of_study: Counter[str]) -> int:
    """How many studies have come back with an object of this modality."""
    return sum(name.endswith(f" {modality}") for name in of_study)


def memory_mb(pid: int) -> float:
    """Of a process: what it holds now."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--associations", type=int, default=8)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which it ends")
    args = parser.parse_args()
    times = processor_times()
    got: Counter[str] = Counter()
    of_study: Counter[str] = Counter()

    def store(event):
        got[str(event.dataset.SOPInstanceUID)] += 1
        of_study[f"{event.dataset.StudyInstanceUID} {event.dataset.Modality}"] += 1
        return 0x0000

    archive = pynetdicom.AE("PACS")
    archive.supported_contexts = [
        pynetdicom.build_context(c.abstract_syntax, pynetdicom.ALL_TRANSFER_SYNTAXES)
        for c in pynetdicom.AllStoragePresentationContexts[:128]
        if c.abstract_syntax
    ]
    for uid in ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.1.1"):
        archive.add_supported_context(uid, pynetdicom.ALL_TRANSFER_SYNTAXES)
    listening, own = free_port(), free_port()
    server = archive.start_server(("127.0.0.1", own), block=False, evt_handlers=[(pynetdicom.evt.EVT_C_STORE, store)])
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "ichseg", "listen", folder, "--port", str(listening), "--quiet", "2"]
        words += ["--send-to", f"PACS@127.0.0.1:{own}", "--min-free", "0", "--device", "cpu"]
        with (Path(folder) / "log").open("w") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            held = watch(process, listening, args, of_study)
        finally:
            process.terminate()
            process.wait()
        tracebacks = (Path(folder) / "log").read_text().count("Traceback")
    server.shutdown()
    held |= {
        "objects": sum(got.values()),
        "objects_twice": sum(count > 1 for count in got.values()),
        "studies_with_a_report": with_a("SR", of_study),
        "reports_lost": args.studies - with_a("SR", of_study),
        "studies_with_a_segmentation": with_a("SEG", of_study),
        "tracebacks": tracebacks,
    }
    about = {
        "commit": commit(),
        "machine": machine(torch.device("cpu")),
        "steal": steal_share(times, processor_times()),
    }
    print(json.dumps({"benchmark": "listener", **about, **held}))


def watch(process, port: int, args, of_study: Counter[str]) -> dict[str, object]:
    """Push everything, wait until every study has its report, and see what the process holds meanwhile."""
    started = time.monotonic()
    samples: list[tuple[int, float]] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(1):
            samples.append((with_a("SR", of_study), memory_mb(process.pid)))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    shares = [list(range(n, args.studies, args.associations)) for n in range(args.associations)]
    with ThreadPoolExecutor(args.associations) as pool:
        senders = list(pool.map(lambda share: Sender(port).push(share), shares))
    statuses = sum((one.statuses for one in senders), Counter())
    pushed = time.monotonic() - started
    while time.monotonic() - started < args.limit and process.poll() is None:
        if with_a("SR", of_study) >= args.studies:
            time.sleep(5)  # what would come twice comes now
            break
        time.sleep(1)
    stop.set()
    watcher.join()

    def held(share: float) -> float:
        """MB when this share of the studies was done."""
        return round(next((mb for done, mb in samples if done >= share * args.studies), samples[-1][1]))

    return {
        "studies": args.studies,
        "images": args.studies * SLICES,
        "accepted": statuses[0],
        "other_statuses": {hex(code): count for code, count in statuses.items() if code},
        "slowest_acknowledgment_s": round(max(one.slowest for one in senders), 2),
        "associations_that_broke": sum(one.broken for one in senders),
        "seconds_to_push": round(pushed, 1),
        "seconds_in_all": round(time.monotonic() - started, 1),
        "memory_mb_at_a_tenth": held(0.1),
        "memory_mb_at_half": held(0.5),
        "memory_mb_at_the_end": held(1.0),
        "memory_mb_largest": round(max(mb for _, mb in samples)),
    }


if __name__ == "__main__":
    main()
