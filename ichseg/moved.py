"""Modules that moved in 0.7 answer to their old names until 1.0, with a deprecation warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "ichseg.data.brain": "ichseg.anatomy",
    "ichseg.data.implants": "ichseg.synthetic.implants",
    "ichseg.data.phantom": "ichseg.synthetic.phantom",
    "ichseg.guard": "ichseg.bundle",
    "ichseg.inference.call": "ichseg.inference.segmenter",
    "ichseg.launch": "ichseg.bundle",
    "ichseg.methods": "ichseg.evaluation",
    "ichseg.metrics.midline": "ichseg.anatomy",
    "ichseg.resources": "ichseg.bundle",
}


class MovedModules(MetaPathFinder, Loader):
    """Asked last, for names that nothing else knows."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2)
        found = ModuleType(spec.name)
        found.__dict__.update({k: v for k, v in vars(importlib.import_module(new)).items() if not k.startswith("__")})
        return found

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""


sys.meta_path.append(MovedModules())
