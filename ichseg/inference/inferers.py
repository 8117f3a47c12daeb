"""Lower precision around the network's forward pass and nowhere else, on CPU and GPU alike, and what it changes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer

from ichseg.io import write_text
from ichseg.precision import checked_precision, full_precision, lower_type, warn_of_slow_bf16

logger = logging.getLogger(__name__)


class PrecisionInferer(Inferer):
    """Wrap another inferer so that the network runs in ``precision`` and its output is float32.

    MONAI's own ``amp`` works on CUDA only; CPUs with bfloat16 matrix units gain two to four times from this.

    Args:
        precision: ``"fp32"`` or ``"bf16"``.
        inferer: what calls the network; MONAI's SimpleInferer if None.
    """

    def __init__(self, precision: str = "fp32", inferer: Inferer | None = None) -> None:
        super().__init__()
        self.precision = checked_precision(precision)
        self.inferer = SimpleInferer() if inferer is None else inferer

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        if lower_type(self.precision) is None:
            return self.inferer(inputs, network, *args, **kwargs)

        def cast(x: torch.Tensor, *a: Any, **k: Any) -> torch.Tensor:
            with self.lowered(x.device.type):
                return network(x, *a, **k).float()

        return self.inferer(inputs, cast, *args, **kwargs)

    def lowered(self, device: str, cache_enabled: bool = True) -> torch.autocast:
        """Context in which a network runs in this precision, on a type of device."""
        lower = lower_type(self.precision)
        if lower is not None and device == "cpu":
            warn_of_slow_bf16()
        return torch.autocast(device, dtype=lower, enabled=lower is not None, cache_enabled=cache_enabled)


class PrecisionCheck:
    """Compute the masks of the first scans again in fp32 and report how far those of lower precision differ.

    Goes after the steps that make the mask, passes items on unchanged, and does nothing in fp32. The result is logged
    and written to ``output_dir/precision.json``.

    Args:
        precision: of the run.
        inferer, network, device: as the run's.
        steps: from ``image`` and ``pred`` (what the inferer gives) to the mask under ``pred``.
        scans: how many scans with a nonempty mask are repeated; 0: none, and a warning says so. Of scans with empty
            masks, which say little, at most three times as many.
        gate: probability that lets a slice have a mask.
        output_dir: where ``precision.json`` goes; None writes none.
    """

    def __init__(
        self,
        precision: str,
        inferer: Callable[..., torch.Tensor],
        network: torch.nn.Module,
        steps: Callable[[dict[str, Any]], dict[str, Any]],
        device: torch.device | str = "cpu",
        scans: int = 3,
        gate: float = 0.5,
        output_dir: str | Path | None = None,
    ) -> None:
        self.precision, self.inferer, self.network, self.steps = checked_precision(precision), inferer, network, steps
        self.device, self.scans, self.gate = torch.device(device), scans, gate
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.empty = 0
        self.found = {"scans": 0, "slices": 0, "slices_gated_otherwise": 0}
        self.voxels = {"both": 0, precision: 0, "fp32": 0}
        if precision != "fp32" and scans < 1:
            logger.warning("precision %s: effect on the masks not measured (precision_check: 0)", precision)

    def described(self) -> dict[str, Any]:
        """It changes no mask, see :func:`ichseg.provenance.describe`."""
        return {}

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if self.precision == "fp32" or self.found["scans"] >= self.scans or self.empty >= 3 * self.scans:
            return item
        with full_precision(), torch.no_grad():
            again = dict(item)
            again["pred"] = self.inferer(item["image"][None].to(self.device), self.network)[0].cpu()
            again = self.steps(again)
        mine, full = torch.as_tensor(item["pred"]) > 0, torch.as_tensor(again["pred"]) > 0
        if not bool(mine.any() or full.any()):
            self.empty += 1
            if self.empty == 3 * self.scans and not self.found["scans"]:
                logger.warning("precision %s: the first %d scans have no mask to compare", self.precision, self.empty)
            return item
        gates = [torch.as_tensor(one["image_probability"]) >= self.gate for one in (item, again)]
        self.found["scans"] += 1
        self.found["slices"] += len(gates[0])
        self.found["slices_gated_otherwise"] += int((gates[0] != gates[1]).sum())
        for name, mask in (("both", mine & full), (self.precision, mine), ("fp32", full)):
            self.voxels[name] += int(mask.sum())
        self._report()
        return item

    @property
    def dice(self) -> float:
        """Of all masks compared so far, pooled."""
        return 2 * self.voxels["both"] / (self.voxels[self.precision] + self.voxels["fp32"])

    def _report(self) -> None:
        f = self.found
        logger.warning(
            "precision %s: Dice with the fp32 masks %.4f, gating differs in %d of %d slices (%d scans compared)",
            *(self.precision, self.dice, f["slices_gated_otherwise"], f["slices"], f["scans"]),
        )
        if self.output_dir is not None:
            report = {"precision": self.precision, "dice_to_fp32": round(self.dice, 5), **f, "voxels": self.voxels}
            write_text(self.output_dir / "precision.json", json.dumps(report, indent=2) + "\n")
