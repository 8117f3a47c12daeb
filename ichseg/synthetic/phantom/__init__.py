"""PhantomHead CT phantoms: known anatomy, known hemorrhage, from a seed."""

from ichseg.synthetic.phantom.cohort import PATTERN, PhantomScan, phantom_scan, prepare_phantom

__all__ = ["PATTERN", "PhantomScan", "phantom_scan", "prepare_phantom"]
