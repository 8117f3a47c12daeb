"""DICOM in a folder run: series become scans with names, and are written as NIfTI just before they are read."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ichseg.dicom.choice import ALL, BEST, choose, series_name
from ichseg.dicom.files import Source, find_sources
from ichseg.dicom.headers import Instance, read_instances
from ichseg.dicom.pixels import read_stack
from ichseg.dicom.stacks import Stack, stacks
from ichseg.errors import ScanError
from ichseg.io import write_volume
from ichseg.io.folder import ROOT, SCANS
from ichseg.io.geometry import SLABS
from ichseg.io.urls import DICOM
from ichseg.io.volume import OWN_SCAN
from ichseg.io.walk import Unreadable, refuse


def list_series(
    inputs: Sequence[Path],
    root: str,
    output: Path,
    series: str = BEST,
    progress: Callable[[Iterable[Source]], Iterable[Source]] = iter,
    unreadable: Unreadable = refuse,
) -> list[dict[str, Any]]:
    """Every series of the DICOM files at or below the inputs as an entry of a folder run.

    Args:
        inputs: folders, DICOM files and zip archives.
        root: the folder that names are relative to; empty for the names of files alone.
        output: folder of the run, which is left out and gets the scans as NIfTI.
        series: see :func:`ichseg.dicom.choose`.
        progress: wraps the list of files, whose headers are read.
        unreadable: see :func:`ichseg.io.walk.walk`.

    Returns:
        ``case``, ``image`` (a NIfTI file that :func:`write_scan` makes), ``dicom`` (see :func:`entry_of`) and
        ``data_root`` for what is segmented; ``case``, ``image`` (a DICOM file or folder) and ``skip`` (the reason) for
        the rest, and ``broken`` for files that cannot be read.
    """
    sources = [source for one in inputs for source in find_sources(one, output.resolve(), unreadable)]
    found: list[Instance] = []
    broken: list[dict[str, Any]] = []
    for source in progress(list(dict.fromkeys(sources))):
        try:
            found += read_instances(source)
        except ScanError as error:
            broken.append({"case": _relative(source.folder / source.name, root), "image": str(source),
                           "broken": str(error)})  # fmt: skip
    chosen = choose(stacks(found), series)
    names, chosen = _names(chosen, root, series), _with_their_number(chosen)
    folder = output / SCANS
    entries: list[dict[str, Any]] = []
    for stack, name in zip(chosen, names, strict=True):
        if stack.skip:
            entries.append({"case": name, "image": _place(stack), "skip": stack.skip})
        else:
            image = folder / f"{name}.nii.gz"
            entries.append({"case": name, "image": str(image), DICOM: entry_of(stack), ROOT: str(folder)})
    return entries + broken


def entry_of(stack: Stack) -> dict[str, Any]:
    """A stack as plain values, for a data dictionary and the journal: what it is made of, and what is known of it."""
    return {
        "place": _place(stack), "doubts": list(stack.doubts), "notes": list(stack.notes), SLABS: list(stack.slabs_mm),
        "instances": [[str(one.source.path), one.source.member, one.frame, one.uid] for one in stack.instances],
        "stamps": [list(source.stamp()) for source in dict.fromkeys(one.source for one in stack.instances)],
    }  # fmt: skip


def stack_of(entry: Mapping[str, Any]) -> Stack:
    """The stack of an entry, its headers read again.

    Raises:
        ScanError: a file has changed or gone.
    """
    known: dict[Source, dict[int | None, Instance]] = {}
    images = []
    for path, member, frame, uid in entry["instances"]:
        source = Source(Path(path), member)
        if source not in known:
            known[source] = {one.frame: one for one in read_instances(source)}
        one = known[source].get(frame)
        if one is None or one.uid != uid:
            raise ScanError(f"{source}: changed since the files were listed")
        images.append(one)
    return Stack(tuple(images), "", tuple(entry["doubts"]), tuple(entry["notes"]), tuple(entry[SLABS]))


def write_scan(item: Mapping[str, Any], before: Callable[[Path], Any] = bool) -> list[str]:
    """Write the NIfTI file of an entry: nothing is resampled, tilt stays in its affine.

    Args:
        item: the entry.
        before: called with the file's path when its voxels have been read.

    Returns:
        what is doubtful about the voxels, one short sentence each.

    Raises:
        ScanError: names the DICOM file that cannot be read.
    """
    path = Path(str(item["image"]))
    stack = stack_of(item[DICOM])
    voxels, doubts = read_stack(stack)
    path.parent.mkdir(parents=True, exist_ok=True)
    before(path)
    write_volume(path, voxels, stack.affine, OWN_SCAN)
    return doubts


def _with_their_number(found: Sequence[Stack]) -> list[Stack]:
    """Stacks that share a folder with other series say which series they are."""
    shared: defaultdict[str, set[str]] = defaultdict(set)
    folders = [str(_common_folder(stack)) for stack in found]
    for folder, stack in zip(folders, found, strict=True):
        shared[folder].add(series_name(stack))
    told = []
    for folder, stack in zip(folders, found, strict=True):
        others = ", ".join(sorted(shared[folder] - {series_name(stack)}))
        note = f"series {series_name(stack)}; also in this folder: {others}"
        told.append(replace(stack, notes=(*stack.notes, note)) if others and not stack.skip else stack)
    return told


def _names(found: Sequence[Stack], root: str, rule: str) -> list[str]:
    """A name for each: its folder; with the number of the series where several share one.

    A series that was asked for by its number has it too, so that it does not replace the one that is usually taken.
    """
    folders = [_relative(_common_folder(stack), root) for stack in found]
    segmented = Counter(folder for folder, stack in zip(folders, found, strict=True) if not stack.skip)
    if str(rule) not in (BEST, ALL):
        segmented.update(folder for folder, stack in zip(folders, found, strict=True) if stack.skip)
    taken: set[str] = set()
    names = []
    for folder, stack in zip(folders, found, strict=True):
        name = folder
        if stack.skip or segmented[folder] > 1:
            number = stack.first.series_number
            name = f"{folder}_series{number if number is not None else ''}"
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name}_{count}"
        taken.add(unique)
        names.append(unique)
    return names


def _common_folder(stack: Stack) -> Path:
    folders = {str(one.source.folder) for one in stack.instances}
    return Path(os.path.commonpath(folders))


def _relative(path: Path, root: str) -> str:
    """Name of a folder below the root; of the root itself, its own name."""
    if not root:
        return path.name
    parts = [part for part in Path(os.path.relpath(path, root)).parts if part not in ("..", "/")]
    return "/".join(parts) or path.absolute().name


def _place(stack: Stack) -> str:
    """Where a series lies: its file, the archive or the folder of its files."""
    sources = {one.source for one in stack.instances}
    archives = {source.path for source in sources if source.member}
    if len(sources) == 1 or len(archives) == 1:
        return str(next(iter(archives if len(sources) > 1 else sources)))
    return str(_common_folder(stack))
