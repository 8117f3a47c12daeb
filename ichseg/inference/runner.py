"""The folder runner: every scan through the network, one row per scan, whatever happens to the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ichseg.errors import one_line
from ichseg.inference.results import Results
from ichseg.inference.scans import ScanDataset
from ichseg.metrics import hemorrhage_volume

logger = logging.getLogger(__name__)


class FolderRunner:
    """Stands where MONAI bundles have their evaluator: ``run()`` goes through the data set.

    Per scan: preprocessing (in the data set) -> ``inferer(image, network)`` under ``pred`` -> postprocessing,
    which saves the mask. The row of the scan goes into ``results.csv`` and ``results.jsonl`` of the output at once.

    Args:
        dataset: gives one item per scan, or ``{"failed": reason}``.
        network: what the inferer calls.
        inferer: a MONAI inferer.
        postprocessing: transforms from ``pred`` to the saved mask; the mask stays under ``pred``.
        output_dir: where the results go.
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
        self.results = Results(self.output_dir)

    def run(self) -> list[dict[str, Any]]:
        """Run every scan; returns the rows of the results, see :class:`ichseg.inference.Results`."""
        self.results = Results(self.output_dir)
        outputs: dict[str, str] = {}
        for index in tqdm(range(len(self.dataset)), desc="scans", unit="scan"):
            case, image = self.dataset.data[index]["case"], str(self.dataset.data[index]["image"])
            started = time.perf_counter()
            # a.nii and a.nii.gz would write the same output: the second must not replace the first.
            if case in outputs:
                row = _failed("list", f"{image}: same output name as {outputs[case]}; rename one")
            else:
                outputs[case] = image
                row = self._one(index)
            row = {"case": case, **row, "seconds": round(time.perf_counter() - started, 2), "file": image}
            if row["status"] == "failed":
                tqdm.write(f"failed: {row['message']}")
            self.results.add(row)
        logger.info("%s -> %s", self.results.summary(), self.output_dir)
        return self.results.rows

    @property
    def failures(self) -> int:
        """How many scans failed."""
        return self.results.count("failed")

    def exit_if_failed(self) -> None:
        """End the process with exit code 1 if any scan failed; the last step of a bundle run."""
        if self.failures:
            raise SystemExit(1)

    def _one(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        if "failed" in item:
            return _failed("read", item["failed"])
        path = item["image"].meta.get("filename_or_obj", item.get("case"))
        stage = "network"
        try:
            with torch.no_grad():
                item["pred"] = self.inferer(item["image"][None].to(self.device), self.network)[0].cpu()
                stage = "mask"
                item = self.postprocessing(item)
        except Exception as error:  # one scan's failure is its own row
            logger.debug("%s", path, exc_info=True)
            message = one_line(error)
            return _failed(stage, message if str(path) in message else f"{path}: {message}")
        mask = item["pred"]
        measured = hemorrhage_volume(np.asarray(mask[0]), np.asarray(mask.affine))
        flags = item["image"].meta.get("flags", [])
        return {
            "status": "flagged" if flags else "ok",
            "volume_ml": round(measured["volume_ml"], 3),
            "lesions": measured["lesions"],
            "message": "; ".join(flags),
        }


def _failed(stage: str, message: str) -> dict[str, Any]:
    return {"status": "failed", "stage": stage, "message": message}
