"""The datalist: one JSON file that says which scans there are, their slice labels and folds.

Its shape is the one MONAI's Auto3DSeg reads: ``{"training": [{"image": ..., "fold": ...}, ...]}`` with paths
relative to the file. ichseg adds, per scan: ``case``, ``patient``, ``slice_labels`` (0 or 1 per slice, in the
order the slices are stored), and, where pixel masks exist, ``label`` and ``label_slices`` (the annotated slices).
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ichseg.bundle import resource_folder
from ichseg.data.folds import parse_folds
from ichseg.data.subtypes import SUBTYPES
from ichseg.errors import IchsegError
from ichseg.io import scan_name, write_text

FILES = ("image", "label")
UNKNOWN_KEY = "unknown key"
TABLE = "slice_labels.csv"
SUPERVISION = ("pseudo", "masks", "implants")


def load_datalist(
    path: str | Path,
    folds: Sequence[int] | str | int | None = None,
    require: Sequence[str] = (),
    check_files: bool = True,
    cases: Sequence[str] | None = None,
    apart_from: Sequence[int] | str | int | None = None,
) -> list[dict[str, Any]]:
    """Read a datalist and return its scans as MONAI data dictionaries with absolute paths.

    Args:
        path: the JSON file.
        folds: keep only these folds (``[0, 1]`` or ``"0-2"``); None keeps all.
        require: keys every kept scan must have, e.g. ``("slice_labels",)``.
        check_files: verify that every image and label file exists.
        cases: keep only these cases; None keeps all.
        apart_from: folds of another part, such as those of training; ``folds`` must have none of them.

    Raises:
        IchsegError: names the file, the entry and the key that is wrong, or the fold that two parts share.
    """
    path = Path(path)
    entries = _entries(path)
    wanted = None if folds is None else set(parse_folds(folds))
    others = set() if apart_from is None else set(parse_folds(apart_from))
    if both := others & (wanted or set()):
        raise IchsegError(f"fold {min(both)} is used for both training and validation")
    if wanted and others:
        check_patients(path, entries, {**dict.fromkeys(others, "training"), **dict.fromkeys(wanted, "validation")})
    scans: list[dict[str, Any]] = []
    for index, entry in enumerate(entries):
        where = f"{path}: training[{index}] (case {entry['case']})"
        if (wanted is not None and entry.get("fold") not in wanted) or (
            cases is not None and entry["case"] not in cases
        ):
            continue
        for key in require:
            if key not in entry:
                raise IchsegError(f"{where}: key '{key}' is missing")
        scan = {key: value for key, value in entry.items() if (key, value) != ("fold", None)}
        if "slice_labels" in scan:
            scan["slice_labels"] = [int(label) for label in scan["slice_labels"]]  # 1.0, as tables write it
        for key in FILES:
            if key in entry:
                scan[key] = str(_absolute(path, entry[key]))
                if check_files and not Path(scan[key]).is_file():
                    raise IchsegError(f"{where}: {key} file not found: {scan[key]}")
        scans.append(scan)
    for case in cases or []:
        if all(scan["case"] != case for scan in scans):
            where = "" if wanted is None else f" in fold(s) {', '.join(map(str, sorted(wanted)))}"
            raise IchsegError(f"{path}: no scan for case {case}{where}")
    if not scans:
        raise IchsegError(
            f"{path}: no scan in fold(s) {sorted(wanted or [])}; see key 'fold' of the scans for valid folds"
        )
    return scans


def _entries(path: Path) -> list[dict[str, Any]]:
    """The scans as they stand in the file, once they are known to follow the schema."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise IchsegError(f"{path}: no such file or folder; a datalist is made with 'ichseg prepare'") from None
    except UnicodeDecodeError as error:
        raise IchsegError(f"{path}: not a JSON file ({error})") from None
    except OSError as error:
        raise IchsegError(f"{path}: cannot be read ({error.strerror})") from None
    _check(path, text)
    return json.loads(text)["training"]


@lru_cache(maxsize=4)
def _check(path: Path, text: str) -> None:
    """Once for a text: the schema takes seconds for an archive, and every step reads the datalist again."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise IchsegError(f"{path}: not a JSON file ({error})") from None
    for index, key, message in datalist_problems(content):
        if index is None:
            raise IchsegError(f"{path}: {message}")
        if message != UNKNOWN_KEY:  # your own keys are allowed
            entry = content["training"][index]
            case = f" (case {entry.get('case', '?')})" if isinstance(entry, dict) else ""
            raise IchsegError(f"{path}: training[{index}]{case}: {f'key {key!r} ' if key else ''}{message}")


def datalist_problems(content: Any) -> Iterator[tuple[int | None, str, str]]:
    """What is wrong with the content of a datalist, by ``data_manifests/schema_datalist.json``.

    Yields:
        (index of the scan or None, key or "", message), in the order of the file.
    """
    import jsonschema

    schema = json.loads((resource_folder("data_manifests") / "schema_datalist.json").read_text(encoding="utf-8"))
    top = schema["properties"]["training"]
    found: list[tuple[int, str, str]] = []
    for error in jsonschema.Draft202012Validator(schema).iter_errors(content):
        place = list(error.absolute_path)
        if len(place) < 2:
            yield None, "training", f"key 'training' must be {top['description']}"
            return
        index, key = int(place[1]), str(place[2]) if len(place) > 2 else ""
        if error.validator == "required":
            found += [(index, name, "is missing") for name in error.validator_value if name not in error.instance]
        elif error.validator == "additionalProperties":
            found += [(index, name, UNKNOWN_KEY) for name in error.instance if name not in error.schema["properties"]]
        else:
            rule = top["items"]["properties"][key] if key else top["items"]
            found.append((index, key, f"must be {rule['description']}"))
    names: dict[str, int] = {}
    cases: dict[str, int] = {}
    for index, entry in enumerate(content["training"]):
        if not isinstance(entry, dict):
            continue
        if isinstance(entry.get("case"), str) and (first := cases.setdefault(entry["case"], index)) != index:
            found.append((index, "case", f"is the same as that of training[{first}]"))
        chosen = entry.get("label_slices")
        if isinstance(chosen, list) and len({*map(str, chosen)}) < len(chosen):
            found.append((index, "label_slices", "names a slice twice"))
        if isinstance(entry.get("image"), str):
            first = names.setdefault(scan_name(entry["image"]), index)
            if first != index:
                found.append((index, "image", f"has the same file name as training[{first}]; outputs would collide"))
    yield from dict.fromkeys(sorted(found))


def _absolute(path: Path, file: str) -> Path:
    """A file of a datalist. Not resolved: a link keeps the name of the case it stands for."""
    return Path(os.path.abspath(path.parent / file))  # noqa: PTH100


def check_folds(path: str | Path, **parts: Sequence[int] | str | int) -> None:
    """Training, validation and test folds exist in the datalist and share none.

    Args:
        path: the datalist.
        **parts: what they are for -> folds.

    Raises:
        IchsegError: a fold or a patient is in two parts, or no scan is in a fold.
    """
    scans = load_datalist(path, check_files=False)
    there = {scan.get("fold") for scan in scans}
    seen: dict[int, str] = {}
    for name, folds in parts.items():
        for fold in parse_folds(folds):
            if fold not in there:
                raise IchsegError(f"{path}: no scan in fold {fold} ({name} folds {folds})")
            if seen.setdefault(fold, name) != name:
                raise IchsegError(f"fold {fold} is used for both {seen[fold]} and {name}")
    check_patients(path, scans, seen)


def check_patients(path: str | Path, scans: Iterable[Mapping[str, Any]], parts: Mapping[int, str]) -> None:
    """No patient has scans in two parts of the data: what was learned would be tested on what it was learned from.

    Args:
        path: of the datalist, for the message.
        scans: its scans.
        parts: fold -> what it is for.

    Raises:
        IchsegError: names the patient.
    """
    seen: dict[str, int] = {}
    for scan in scans:
        fold = scan.get("fold")
        if fold is not None and fold in parts:
            first = seen.setdefault(patient_name(scan), fold)
            if parts[first] != parts[fold]:
                raise IchsegError(
                    f"{path}: patient {patient_name(scan)} is in folds {first} and {fold}, which are different parts "
                    "of the data; all scans of a patient belong in one"
                )


def patient_name(scan: Mapping[str, Any]) -> str:
    """The patient of a scan; its case where the datalist names none."""
    return str(scan.get("patient", scan["case"]))


def is_known(scan: dict[str, Any]) -> bool:
    """True if the scan's true mask is known: there is one, or every slice is labeled negative."""
    return "label" in scan or not any(scan.get("slice_labels", [1]))


def attach_pseudo_labels(scans: list[dict[str, Any]], folder: str | Path) -> list[dict[str, Any]]:
    """Point ``label`` of every scan at ``folder/<image name>_pseudo.nii.gz``.

    Raises:
        IchsegError: names the first scan without a pseudo-mask and how many lack one.
    """
    paired = []
    for scan in scans:
        file = Path(folder) / f"{scan_name(scan['image'])}_pseudo.nii.gz"
        # A pseudo-mask covers every slice, whatever the real masks covered.
        paired.append({**{k: v for k, v in scan.items() if k != "label_slices"}, "label": str(file)})
    missing = [scan for scan in paired if not Path(scan["label"]).is_file()]
    if missing:
        raise IchsegError(
            f"{missing[0]['label']}: pseudo-mask not found ({len(missing)} of {len(paired)} scans have none); "
            "run 'ichseg pseudo-label' on the same datalist first"
        )
    return paired


def load_masked(
    path: str | Path,
    folds: Sequence[int] | str | int | None = None,
    pseudo_dir: str | Path | None = None,
    supervision: str = "pseudo",
    cases: Sequence[str] | None = None,
    apart_from: Sequence[int] | str | int | None = None,
) -> list[dict[str, Any]]:
    """Scans for training a segmenter.

    Args:
        path: the datalist.
        folds: keep only these.
        pseudo_dir: folder of pseudo-masks.
        supervision: ``"pseudo"`` gives every scan its pseudo-mask under ``label``, ``"masks"`` the datalist's own
            (scans without one are kept if every slice is labeled negative);
            ``"implants"`` gives none and only the slices labeled negative under ``label_slices``, to draw
            hemorrhage into.
        cases: keep only these cases.
        apart_from: see :func:`load_datalist`.

    Raises:
        IchsegError: a mask or the slice labels are missing, or two parts share a fold.
    """
    if supervision not in SUPERVISION:
        raise IchsegError(f"supervision must be one of {', '.join(SUPERVISION)}, not '{supervision}'")
    if supervision == "implants":
        scans = load_datalist(path, folds, require=("slice_labels",), cases=cases, apart_from=apart_from)
        for scan in scans:
            scan.pop("label", None)
            scan["label_slices"] = [i for i, bleeds in enumerate(scan["slice_labels"]) if not bleeds]
        return scans
    if supervision == "masks":
        scans = load_datalist(path, folds, cases=cases, apart_from=apart_from)
        if not any("label" in scan for scan in scans):
            raise IchsegError(f"{path}: no scan in these folds has a mask (key 'label')")
        return [scan for scan in scans if is_known(scan)]
    if pseudo_dir is None:
        raise IchsegError("supervision 'pseudo' needs pseudo_dir, the folder of pseudo-masks")
    return attach_pseudo_labels(load_datalist(path, folds, cases=cases, apart_from=apart_from), pseudo_dir)


def scans_hash(scans: Sequence[Mapping[str, Any]], datalist: str | Path | None = None) -> str:
    """SHA-256 of what data dictionaries say and of the files they name; where these lie does not count.

    Args:
        scans: of :func:`load_datalist`.
        datalist: whose ``slice_labels.csv`` counts, too.
    """
    from ichseg.provenance import content_mark, value_hash

    table = [] if datalist is None else [content_mark(Path(datalist).parent / TABLE)]
    marks = [{key: content_mark(scan[key]) for key in FILES if key in scan} for scan in scans]
    return value_hash([_described(scans), marks, *table])


def entries_hash(path: str | Path) -> str:
    """SHA-256 of what a datalist says; the files that it names count by their names only."""
    from ichseg.provenance import value_hash

    return value_hash(_described(load_datalist(path)))


def images_hash(path: str | Path) -> str:
    """SHA-256 of the images that a datalist names, and of its ``slice_labels.csv``; where they lie does not count."""
    path = Path(path)
    files = [path.parent / TABLE, *(Path(scan["image"]) for scan in load_datalist(path))]
    return _marks_hash(tuple(files), tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files))


@lru_cache(maxsize=16)
def _marks_hash(files: tuple[Path, ...], dates: tuple[int, ...]) -> str:
    from ichseg.provenance import content_mark, value_hash

    return value_hash([content_mark(file) for file in files])


def _described(scans: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The data dictionaries without the folders of their files."""
    return [{key: Path(value).name if key in FILES else value for key, value in scan.items()} for scan in scans]


def datalist_hash(path: str | Path) -> str:
    """SHA-256 of what a datalist says and of the true masks it names; where the files lie does not count."""
    path = Path(path)
    masks = [Path(scan["label"]) for scan in load_datalist(path) if "label" in scan]
    return _datalist_hash(path, tuple(file.stat().st_mtime_ns for file in (path, *masks)))


@lru_cache(maxsize=16)
def _datalist_hash(path: Path, dates: tuple[int, ...]) -> str:
    from ichseg.provenance import file_hash, value_hash

    scans = load_datalist(path)
    masks = [file_hash(scan["label"]) if "label" in scan else None for scan in scans]
    return value_hash([[named, mask] for named, mask in zip(_described(scans), masks, strict=True)])


def read_slice_table(folder: Path) -> dict[tuple[str, int], dict[str, str]]:
    """``slice_labels.csv`` of a data folder: (case, slice index) -> its row; empty where there is none."""
    file = folder / TABLE
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    try:
        return {(row["case"], int(row["slice_index"])): row for row in rows}
    except (KeyError, TypeError, ValueError):
        raise IchsegError(f"{file}: every row must have case and slice_index (a number)") from None


def write_datalist(folder: Path, name: str, scans: list[dict[str, Any]], **about: Any) -> None:
    """Write ``datalist.json`` and ``slice_labels.csv`` into ``folder``.

    Every scan may carry ``slices``: one dict per slice with ``slice_number`` (as in the source),
    ``hemorrhage`` and, where known, the subtypes; it goes into the CSV, the labels into the JSON.
    """
    subtypes = list(SUBTYPES.values())
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["case", "slice_index", "slice_number", "hemorrhage", *subtypes])
    entries = []
    for scan in scans:
        slices = scan.pop("slices", [])
        for index, row in enumerate(slices):
            writer.writerow(
                [scan["case"], index, row.get("slice_number", index + 1), row["hemorrhage"]]
                + [row.get(subtype, "") for subtype in subtypes]
            )
        entries.append({**scan, "slice_labels": [int(row["hemorrhage"]) for row in slices]} if slices else scan)
    head = json.dumps({"name": name, **about})[:-1]
    lines = ",\n  ".join(json.dumps(entry) for entry in entries)  # one scan a line: readable and easy to diff
    write_text(folder / TABLE, table.getvalue())
    write_text(folder / "datalist.json", f'{head},\n "training": [\n  {lines}\n ]}}\n')
