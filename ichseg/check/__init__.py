"""Looking at bundles, configs, datalists and weight files before anything of them runs."""

from ichseg.check.expressions import doubts_of_expression
from ichseg.check.findings import Finding
from ichseg.check.kinds import check_path
from ichseg.check.weight_files import doubts_of_weights

__all__ = ["Finding", "check_path", "doubts_of_expression", "doubts_of_weights"]
