"""Every bad or doubtful input a folder of scans may hold, made from a good one; nothing of it is stored.

python tests/broken_files.py FOLDER        # make them, to try a program on
"""

from __future__ import annotations

import gzip
import os
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

AFFINE = np.diag([-4.0, -4.0, 5.0, 1.0])
SHAPE = (48, 48, 6)
# Where a NIfTI-1 header holds what.
DIM, DATATYPE, BITPIX, PIXDIM, VOX_OFFSET, SLOPE, INTER = 40, 70, 72, 76, 108, 112, 116
QFORM_CODE, SFORM_CODE, SROW, MAGIC = 252, 254, 280, 344


@dataclass(frozen=True)
class Case:
    """One file: what it should come to, and a pattern of what is said of it."""

    file: str
    outcome: str  # "failed", "skipped", "flagged" or "ok"
    said: str
    make: Callable[[Path], object]


def head(shape=SHAPE) -> np.ndarray:
    """A round head in air with a skull and a bleed, int16 HU."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape[:2]], indexing="ij")
    radius = np.hypot(x, y)
    flat = np.where(radius < 0.8, 35, np.where(radius < 0.88, 900, -1000)).astype(np.int16)
    flat[np.hypot(x - 0.3, y) < 0.15] = 65
    return np.repeat(flat[..., None], shape[2], axis=2)


def image(array=None, affine=AFFINE, **header) -> nib.Nifti1Image:
    """A good scan; keywords change header fields."""
    made = nib.Nifti1Image(head() if array is None else array, affine)
    made.set_sform(affine, 1)
    made.set_qform(affine, 1, strip_shears=True)
    for name, value in header.items():
        made.header[name] = value
    return made


def good() -> bytes:
    """A good scan, not compressed."""
    return image().to_bytes()


def patched(*changes: tuple[int, str, object], data: bytes | None = None) -> bytes:
    """Bytes of a scan with header fields overwritten: (offset, struct format, value)."""
    held = bytearray(good() if data is None else data)
    for offset, kind, value in changes:
        struct.pack_into(f"<{kind}", held, offset, *(value if isinstance(value, tuple) else (value,)))
    return bytes(held)


def written(data: bytes | Callable[[], bytes]) -> Callable[[Path], object]:
    """A maker that writes bytes, compressed if the name asks for it."""

    def make(path: Path) -> None:
        raw = data if isinstance(data, bytes) else data()
        path.write_bytes(gzip.compress(raw, 1, mtime=0) if path.name.endswith(".gz") else raw)

    return make


def as_it_is(data: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data())


def saved(array=None, affine=AFFINE, **header) -> Callable[[Path], object]:
    return lambda path: written(image(array, affine, **header).to_bytes())(path)


def extended() -> bytes:
    """A good scan with a header extension longer than the header, as AFNI writes them."""
    made = image()
    made.header.extensions.append(nib.nifti1.Nifti1Extension("afni", b"patient name" * 400))
    return made.to_bytes()


def cut_crc() -> bytes:
    packed = gzip.compress(good(), mtime=0)
    return packed[:-6] + bytes([packed[-6] ^ 255]) + packed[-5:]


def some_nan() -> np.ndarray:
    array = head().astype(np.float32)
    array[0, 0, 0], array[1, 0, 0] = np.nan, np.inf
    return array


TILT = AFFINE + np.array([[0, 0, 0, 0], [0, 0, 1.6, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
CORONAL = np.array([[-4.0, 0, 0, 0], [0, 0, -12, 0], [0, 4, 0, 0], [0, 0, 0, 1]])
NO_QFORM, NO_SFORM = (QFORM_CODE, "h", 0), (QFORM_CODE + 2, "h", 0)
NAN_ROW = (float("nan"),) * 12
ZERO_ROW = (0.0,) * 12

CASES = [
    Case("01_empty.nii.gz", "failed", "the file is empty", lambda p: p.write_bytes(b"")),
    Case("02_random.nii.gz", "failed", "not a gzip file", as_it_is(lambda: np.random.default_rng(0).bytes(4000))),
    Case("02_text.nii", "failed", "not a NIfTI file", as_it_is(lambda: b"not a scan at all" * 60)),
    Case("03_plain_named_gz.nii.gz", "failed", "named .gz, but not a gzip file", as_it_is(good)),
    Case("03_gz_named_nii.nii", "failed", "named .nii, but compressed", as_it_is(lambda: gzip.compress(good()))),
    Case("04_magic.nii", "failed", "magic|not a readable", written(lambda: patched((MAGIC, "4s", b"abc\0")))),
    Case("04_pair.nii", "failed", "magic", written(lambda: patched((MAGIC, "4s", b"ni1\0")))),
    Case("04_folder.nii.gz", "failed", "a folder, not a NIfTI file", lambda p: p.mkdir()),
    Case(
        "05_dangling.nii.gz", "failed", "a link to a file that does not exist", lambda p: p.symlink_to("nowhere.nii.gz")
    ),
    Case("05_pipe.nii.gz", "failed", "a pipe, a socket or a device", lambda p: os.mkfifo(p)),
    Case("06_truncated_gz.nii.gz", "failed", "damaged or truncated", as_it_is(lambda: gzip.compress(good())[:200])),
    Case("07_checksum.nii.gz", "failed", "damaged or truncated", as_it_is(cut_crc)),
    Case("08_truncated.nii", "failed", "truncated", written(lambda: good()[:-1000])),
    Case("08_offset_beyond.nii", "failed", "truncated", written(lambda: patched((VOX_OFFSET, "f", 1e8)))),
    Case("09_negative_dim.nii", "failed", "invalid size", written(lambda: patched((DIM + 2, "h", -48)))),
    Case("10_huge.nii.gz", "failed", "cannot hold", written(lambda: patched((DIM + 2, "hhh", (32000, 32000, 32000))))),
    Case("10_huge.nii", "failed", "cannot hold", written(lambda: patched((DIM + 2, "hhh", (32000, 32000, 32000))))),
    Case("11_nine_dimensions.nii", "failed", "9 dimensions|not a readable", written(lambda: patched((DIM, "h", 9)))),
    Case("12_no_dimensions.nii", "failed", "0 dimensions", written(lambda: patched((DIM, "h", 0)))),
    Case("12_no_slices.nii", "failed", "empty", written(lambda: patched((DIM + 6, "h", 0)))),
    Case("13_unknown_type.nii", "failed", "not a readable", written(lambda: patched((DATATYPE, "h", 9999)))),
    *[
        Case(f"14_slope_{name}.nii", "flagged", "scl_slope is", written(lambda v=value: patched((SLOPE, "f", v))))
        for name, value in (("nan", float("nan")), ("inf", float("inf")))
    ],
    Case("15_intercept_nan.nii", "failed", "intercept", written(lambda: patched((SLOPE, "ff", (1.0, float("nan")))))),
    Case(
        "15_intercept_twice.nii",
        "flagged",
        "gray level of brain",
        written(lambda: patched((SLOPE, "ff", (1, -1024.0)))),
    ),
    Case("15_slope_two.nii", "flagged", "wrong rescale slope", written(lambda: patched((SLOPE, "ff", (2.0, 0.0))))),
    Case("15_slope_million.nii", "flagged", "values up to", written(lambda: patched((SLOPE, "ff", (1e6, 0.0))))),
    *[
        Case(
            f"16_offset_{value}.nii",
            "failed",
            "invalid vox_offset|too low",
            written(lambda v=value: patched((VOX_OFFSET, "f", float(v)))),
        )
        for value in (16, 348)
    ],
    Case("16_offset_0.nii", "ok", "", written(lambda: patched((VOX_OFFSET, "f", 0.0)))),
    *[
        Case(f"16_bitpix_{value}.nii", "ok", "", written(lambda v=value: patched((BITPIX, "h", v))))
        for value in (0, 8, 64)
    ],
    Case(
        "16_offset_nan.nii",
        "failed",
        "invalid vox_offset|not a readable",
        written(lambda: patched((VOX_OFFSET, "f", float("nan")))),
    ),
    Case("17_pixdim_zero.nii", "failed", "invalid voxel size", written(lambda: patched((PIXDIM + 8, "f", 0.0)))),
    Case("18_pixdim_negative.nii", "flagged", "negative pixdim", written(lambda: patched((PIXDIM + 8, "f", -4.0)))),
    *[
        Case(f"{name}.nii", "flagged", "using the qform", written(lambda r=row: patched((SROW, "12f", r))))
        for name, row in (("19_sform_zero", ZERO_ROW), ("20_sform_nan", NAN_ROW))
    ],
    *[
        Case(
            f"{name}_alone.nii",
            "failed",
            "singular or not finite",
            written(lambda r=row: patched((SROW, "12f", r), NO_QFORM)),
        )
        for name, row in (("19_sform_zero", ZERO_ROW), ("20_sform_nan", NAN_ROW))
    ],
    Case("21_no_codes.nii", "flagged", "left and right", written(lambda: patched((QFORM_CODE, "hh", (0, 0))))),
    Case("21_no_qfac.nii", "ok", "", written(lambda: patched((PIXDIM, "f", 0.0), NO_SFORM))),
    Case("22_tilt.nii.gz", "flagged", "tilted gantry", saved(affine=TILT)),
    Case("23_pixdim.nii", "flagged", "disagrees with the affine", written(lambda: patched((PIXDIM + 12, "f", 10.0)))),
    Case("23_thin.nii", "flagged", "0.01 mm apart", saved(affine=AFFINE @ np.diag([1, 1, 0.002, 1]))),
    Case("23_far.nii", "flagged", "1000 mm apart", saved(affine=AFFINE @ np.diag([1, 1, 200, 1]))),
    Case("24_three_volumes.nii.gz", "failed", "one 3-D volume", saved(np.stack([head()] * 3, -1))),
    Case("25_one_volume_4d.nii.gz", "ok", "", saved(head()[..., None])),
    Case("26_flat.nii.gz", "failed", "one 3-D volume", saved(head()[..., 0])),
    Case("27_all_nan.nii.gz", "failed", "no voxel has a finite", saved(np.full(SHAPE, np.nan, np.float32))),
    Case("27_some_nan.nii.gz", "flagged", "2 NaN or infinite", saved(some_nan())),
    Case(
        "28_rgb.nii.gz",
        "skipped",
        "an RGB picture, not Hounsfield units: a dose report or a screenshot",
        saved(np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))),
    ),
    Case("29_complex.nii.gz", "failed", "not Hounsfield units", saved(head().astype(np.complex64))),
    Case(
        "30_big_endian.nii.gz",
        "ok",
        "",
        lambda p: written(nib.Nifti1Image(head(), AFFINE, nib.Nifti1Header(endianness=">")).to_bytes())(p),
    ),
    Case("32_8_bit.nii.gz", "flagged", "an 8-bit image", saved(head().clip(0, 100).astype(np.uint8))),
    Case("32_zero_to_one.nii.gz", "flagged", "from 0 to 1", saved((head().clip(0, 100) / 100).astype(np.float32))),
    Case("32_no_intercept.nii.gz", "flagged", "no rescale intercept", saved(head() + 1024)),
    Case("33_mr.nii.gz", "flagged", "no values below", saved(head().clip(0, None) * 3)),
    Case(
        "33_bone_kernel.nii.gz",
        "flagged",
        "bone kernel",
        saved((head() + np.random.default_rng(0).normal(0, 45, SHAPE)).astype(np.int16)),
    ),
    Case("33_not_a_head.nii.gz", "flagged", "not a head", saved(affine=np.diag([-12.0, -12, 5, 1]))),
    Case("34_coronal.nii.gz", "flagged", "does not run from foot to head", saved(affine=CORONAL)),
    Case("35_extensions.nii.gz", "ok", "", written(extended)),
    Case("35_one_slice.nii.gz", "ok", "", saved(head((48, 48, 1)))),
    Case("35_constant.nii.gz", "flagged", "blank image", saved(np.full(SHAPE, 40, np.int16))),
    Case("37 späce \u2013 ünïcode.nii.gz", "ok", "", saved()),
    Case("-37-dash.nii.gz", "ok", "", saved()),
    Case("=45_formula.nii.gz", "ok", "", saved()),
]


def make(folder: Path) -> Iterator[Case]:
    """Write every case's file into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        path = folder / case.file
        if not os.path.lexists(path):
            case.make(path)
        yield case


if __name__ == "__main__":
    for one in make(Path(sys.argv[1])):
        sys.stdout.write(f"{one.outcome:8s}{one.file}\n")
