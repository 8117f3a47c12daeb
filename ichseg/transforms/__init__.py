"""MONAI transforms over the rooms of ichseg; no arithmetic of their own."""

from ichseg.transforms.reader import HeadCTReader, MaskWriter
from ichseg.transforms.resize import SliceResize, SliceResized
from ichseg.transforms.window import BrainWindow, BrainWindowd

__all__ = ["BrainWindow", "BrainWindowd", "HeadCTReader", "MaskWriter", "SliceResize", "SliceResized"]
