"""What converters, scanners and viewers make of head CT, from phantoms: nothing of it is stored.

python tests/real_files.py FOLDER        # make them, to try a program on
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np

from ichseg.synthetic.phantom import phantom_scan

SIZE, SLICES = 128, 16


@cache
def phantom(**settings):
    """(image int16 HU, label uint8, affine)."""
    made = phantom_scan(seed=2, **{"size": SIZE, "slices": SLICES, **settings})
    return made.image, (made.label > 0).astype(np.uint8), made.affine


def save(path, array, affine, units="mm", codes=(1, 1), qaffine=None) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units(units)
    image.set_sform(affine, codes[0])
    image.set_qform(affine if qaffine is None else qaffine, codes[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def make(folder: Path) -> None:
    """Write all of them."""
    image, label, affine = phantom()
    save(folder / "head.nii.gz", image, affine)
    for name, scale in (("micron", 1e3), ("meter", 1e-3)):
        grid = np.diag([scale, scale, scale, 1]) @ affine
        save(folder / f"{name}.nii.gz", image, grid, units=name)
        save(folder / "masks" / f"{name}.nii.gz", label, grid, units=name)
    save(folder / "masks" / "head.nii.gz", label, affine)
    mirrored = affine @ np.diag([-1, 1, 1, 1])
    save(folder / "sides.nii.gz", image, affine, qaffine=mirrored)
    # Unequal distances: every slice below, every third above.
    fine, _, grid = phantom(slices=36)
    keep = np.r_[0:12, 12:36:3]
    save(folder / "uneven.nii.gz", np.ascontiguousarray(fine[..., keep]), grid)
    save(folder / "uneven_Eq_1.nii.gz", fine, grid)
    save(folder / "tilted.nii.gz", image, affine)
    save(folder / "tilted_Tilt_1.nii.gz", image, affine)
    save(folder / "alone_Eq_1.nii.gz", image, affine)  # no scan it was made of: it is the scan
    # Coronal slices, 10 mm thick, stored as (x, z, y).
    cube, _, cube_affine = phantom(slices=SIZE)
    thick = cube[:, :120].reshape(SIZE, 20, 6, SIZE).mean(2)
    coronal = cube_affine.copy()
    coronal[:3, 3] += cube_affine[:3, 1] * 2.5
    coronal[:3, 1] *= 6
    save(folder / "coronal.nii.gz", np.rint(thick).astype(np.int16).transpose(0, 2, 1), coronal[:, [0, 2, 1, 3]])
    # What lies beside a scan in a study.
    grid = np.array([[0, 0, 0.6, 0], [-0.84, 0, 0, 107], [0, 0.5, 0, -60], [0, 0, 0, 1.0]])
    save(folder / "scout.nii.gz", np.ascontiguousarray(image.max(0)[:, :, None]), grid)
    rgb = np.zeros((64, 64, 1), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), folder / "dose_report.nii.gz")
    save(folder / "head_ROI1.nii.gz", np.zeros((64, 64, 1), np.uint8), np.eye(4))
    (folder / "series").mkdir()
    for number in range(3):
        (folder / "series" / f"I{number}").write_bytes(bytes(128) + b"DICM")
    (folder / "other.nrrd").write_bytes(b"NRRD0004")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
