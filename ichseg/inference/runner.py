"""The folder runner: every scan through the network, one row per scan, whatever happens to the others."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ichseg.errors import one_line
from ichseg.inference.scans import ScanDataset
from ichseg.io import write_text
from ichseg.metrics import hemorrhage_volume

logger = logging.getLogger(__name__)
COLUMNS = ("case", "status", "volume_ml", "lesions", "seconds", "message")


class FolderRunner:
    """Stands where MONAI bundles have their evaluator: ``run()`` goes through the data set.

    Per scan: preprocessing (in the data set) -> ``inferer(image, network)`` under ``pred`` -> postprocessing,
    which saves the mask. The row of the scan goes into ``output_dir/results.csv`` at once: case, status (``ok``
    or ``failed``), volume_ml, lesions, seconds, message.

    Args:
        dataset: gives one item per scan, or ``{"failed": reason}``.
        network: what the inferer calls.
        inferer: a MONAI inferer.
        postprocessing: transforms from ``pred`` to the saved mask; the mask stays under ``pred``.
        output_dir: where ``results.csv`` goes.
        device: where the network runs.
    """

    def __init__(
        self,
        dataset: ScanDataset,
        network: torch.nn.Module,
        inferer: Callable[..., torch.Tensor],
        postprocessing: Callable[[dict[str, Any]], dict[str, Any]],
        output_dir: str | Path,
        device: str | torch.device = "cpu",
    ) -> None:
        self.dataset, self.inferer, self.postprocessing = dataset, inferer, postprocessing
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.output_dir = Path(output_dir)
        self.rows: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        """Run every scan; returns the rows of ``results.csv``."""
        self.rows = []
        outputs: dict[str, str] = {}
        for index in tqdm(range(len(self.dataset)), desc="scans", unit="scan"):
            case = self.dataset.data[index]["case"]
            started = time.perf_counter()
            image = self.dataset.data[index]["image"]
            row: dict[str, Any]
            # a.nii and a.nii.gz would write the same output: the second must not replace the first.
            if case in outputs:
                row = {"status": "failed", "message": f"{image}: same output name as {outputs[case]}; rename one"}
            else:
                outputs[case] = image
                row = self._one(index)
            row |= {"case": case, "seconds": round(time.perf_counter() - started, 2)}
            if row["status"] == "failed":
                tqdm.write(f"failed: {row['message']}")
            self.rows.append(row)
            self._write()
        counts = Counter(row["status"] for row in self.rows)
        logger.info("%s -> %s", ", ".join(f"{n} {s}" for s, n in sorted(counts.items())), self.output_dir)
        return self.rows

    @property
    def failures(self) -> int:
        """How many scans failed."""
        return sum(row["status"] == "failed" for row in self.rows)

    def exit_if_failed(self) -> None:
        """End the process with exit code 1 if any scan failed; the last step of a bundle run."""
        if self.failures:
            raise SystemExit(1)

    def _one(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        if "failed" in item:
            return {"status": "failed", "message": item["failed"]}
        path = item["image"].meta.get("filename_or_obj", item.get("case"))
        try:
            with torch.no_grad():
                item["pred"] = self.inferer(item["image"][None].to(self.device), self.network)[0].cpu()
                item = self.postprocessing(item)
        except Exception as error:  # one scan's failure is its own row
            logger.debug("%s", path, exc_info=True)
            message = one_line(error)
            return {"status": "failed", "message": message if str(path) in message else f"{path}: {message}"}
        mask = item["pred"]
        measured = hemorrhage_volume(np.asarray(mask[0]), np.asarray(mask.affine))
        flags = "; ".join(item["image"].meta.get("flags", []))
        return {
            "status": "ok",
            "volume_ml": round(measured["volume_ml"], 3),
            "lesions": measured["lesions"],
            "message": flags,
        }

    def _write(self) -> None:
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            # A cell that starts like a formula is text, not a formula.
            writer.writerow({k: f"'{v}" if isinstance(v, str) and v[:1] in "=+-@" and v else v for k, v in row.items()})
        write_text(self.output_dir / "results.csv", table.getvalue())
