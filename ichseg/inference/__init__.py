"""Running networks over scans: precision, the folder runner, pseudo-masks."""

from ichseg.inference.precision import PRECISIONS, PrecisionInferer

__all__ = ["PRECISIONS", "PrecisionInferer"]
