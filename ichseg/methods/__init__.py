"""Comparison systems, one file each."""

from ichseg.methods.hu_rule import hu_rule

__all__ = ["hu_rule"]
