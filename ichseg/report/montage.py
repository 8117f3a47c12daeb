"""Pictures of slices with outlines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ichseg.defaults import SHOWN_LEVEL, SHOWN_WIDTH
from ichseg.io import atomic_path

TRUTH_COLOR, PREDICTION_COLOR = (90, 220, 90), (255, 80, 60)
TEXT_COLOR = (235, 235, 120)
CAPTION_PIXELS = 18


def slice_picture(
    hounsfield: np.ndarray,
    prediction: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    level: float = SHOWN_LEVEL,
    width: float = SHOWN_WIDTH,
    size: int = 256,
) -> Image.Image:
    """One slice as a radiologist sees it, outlines drawn: prediction red, truth green.

    Args:
        hounsfield: (H, W) HU; first axis to the left of the patient, second to the back.
        prediction, truth: (H, W) masks.
        level, width: display window in HU.
        size: pixels per side of the picture.
    """
    gray = np.clip((hounsfield.astype(np.float32) - level + width / 2) / width, 0, 1) * 255
    picture = Image.fromarray(gray.T.astype(np.uint8)).resize((size, size), Image.Resampling.BILINEAR).convert("RGB")
    pixels = np.array(picture)
    for mask, color in ((truth, TRUTH_COLOR), (prediction, PREDICTION_COLOR)):
        if mask is not None and mask.any():
            large = Image.fromarray((mask.T > 0).astype(np.uint8) * 255).resize((size, size), Image.Resampling.NEAREST)
            filled = np.array(large) > 0
            pixels[filled ^ ndimage.binary_erosion(filled)] = color
    return Image.fromarray(pixels)


def labeled(picture: Image.Image, text: str) -> Image.Image:
    """The picture with a few words in its upper left corner, cut at its width."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    while text and draw.textlength(text, font=font) > picture.width - 8:
        text = "\u2026" + text[2 if text.startswith("\u2026") else 1 :]
    draw.text((5, 3), text, fill=TEXT_COLOR, font=font, stroke_width=2, stroke_fill=(0, 0, 0))
    return picture


def montage(rows: Sequence[tuple[str, Sequence[Image.Image]]], path: str | Path, predictions: bool = True) -> None:
    """Write rows of pictures, each row under its caption, as one PNG; the legend names predictions if there are any."""
    if not rows:
        raise ValueError("a montage needs at least one row")
    columns = max(len(pictures) for _, pictures in rows)
    size = rows[0][1][0].width
    height = size + CAPTION_PIXELS + 6
    sheet = Image.new("RGB", (columns * size, len(rows) * height + CAPTION_PIXELS + 4), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for number, (caption, pictures) in enumerate(rows):
        draw.text((6, number * height + 3), caption, fill=(235, 235, 235), font=font)
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (column * size, number * height + CAPTION_PIXELS + 4))
    legend, left = len(rows) * height + 3, 6
    words = [("green: truth", TRUTH_COLOR), ("patient's right is on the left", (170, 170, 170))]
    for word, color in [("red: prediction", PREDICTION_COLOR), *words] if predictions else words:
        draw.text((left, legend), word, fill=color, font=font)
        left += int(draw.textlength(word, font=font)) + 24
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def telling_slices(mask: np.ndarray, count: int, also: np.ndarray | None = None) -> list[int]:
    """Slices (third axis) to show: spread over where the mask is, or over the middle of an empty one.

    Args:
        mask: (X, Y, Z).
        count: how many slices at most.
        also: second mask (X, Y, Z) whose largest slice is always among them.
    """
    shown: set[int] = set()
    if also is not None and also.any():
        shown.add(int((also > 0).sum(axis=(0, 1)).argmax()))
    positive = np.flatnonzero(mask.any(axis=(0, 1)))
    if len(positive) == 0:
        positive = np.arange(mask.shape[2] // 4, max(3 * mask.shape[2] // 4, 1))
    shown |= {int(positive[round(i)]) for i in np.linspace(0, len(positive) - 1, count - len(shown))}
    return sorted(shown)
