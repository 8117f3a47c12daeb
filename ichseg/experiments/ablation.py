"""The nine rows of Table 4 as switches, and the switches as values of the pseudo-mask bundle's config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ichseg.networks import cam_layers, deepest_layer


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        models: which of the pair of classifiers, 0 and 1.
        sf_cam: SF-CAM of the shallow layers; otherwise Grad-CAM of the deepest.
        scf: spatial context fusion.
        bla: either of two layers above the threshold; otherwise one map.
        dcrf: dense CRF.
        unet: a U-Net trained on the pseudo-masks.
    """

    models: tuple[int, ...] = (0, 1)
    sf_cam: bool = True
    scf: bool = False
    bla: bool = False
    dcrf: bool = False
    unet: bool = False

    def name(self, pair: Sequence[str]) -> str:
        """E.g. "resnet34+resnet50, SF-CAM, SCF"."""
        parts = ["+".join(pair[m] for m in self.models), "SF-CAM" if self.sf_cam else "Grad-CAM"]
        switches = {"SCF": self.scf, "BLA": self.bla, "dCRF": self.dcrf, "U-Net": self.unet}
        return ", ".join(parts + [name for name, on in switches.items() if on])

    def overrides(self, pair: Sequence[str], layers: str = "2") -> dict[str, Any]:
        """Values of the pseudo-mask config for this row.

        Args:
            pair: the two backbones.
            layers: the map of rows without aggregation (decision D14: layer 2): ``"1"``, ``"2"`` or ``"mean"``.
        """
        chosen = [pair[m] for m in self.models]
        values: dict[str, Any] = {} if self.scf else {"fusion_weight": 0.0}
        values |= {} if self.dcrf else {"crf_iterations": 0}
        if self.sf_cam:
            return {
                **values,
                "cam_layers": [list(cam_layers(b)) for b in chosen],
                "layers": "both" if self.bla else layers,
            }
        return {
            **values,
            "method": "grad_cam",
            "cam_layers": [[deepest_layer(b)] for b in chosen],
            "amplify_scale": 0,
        }


ROWS: dict[str, Row] = {
    "r1": Row(sf_cam=False),
    "r2": Row(sf_cam=False, scf=True),
    "r3": Row(models=(0,)),
    "r4": Row(models=(1,)),
    "r5": Row(),
    "r6": Row(scf=True),
    "r7": Row(scf=True, bla=True),
    "r8": Row(scf=True, bla=True, dcrf=True),
    "r9": Row(scf=True, bla=True, dcrf=True, unet=True),
}
