"""Scans in object storage, listed as those of a folder are."""

from __future__ import annotations

import logging
import os
import posixpath
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ichseg.errors import NO_ROOM, IchsegError, one_line
from ichseg.folder.journal import inside
from ichseg.folder.manifest import ENDINGS, is_manifest, names_in, names_urls
from ichseg.folder.store import AT_ONCE, Store, again, told
from ichseg.io.folder import MASK_POSTFIXES, PROBABILITY_POSTFIX
from ichseg.io.nifti import is_nifti, scan_name
from ichseg.io.urls import REMOTE, is_url
from ichseg.progress import progress

logger = logging.getLogger(__name__)


def is_remote(name: str) -> bool:
    """True for a URL, or for a table of URLs."""
    return is_url(name) or (is_manifest(Path(name)) and names_urls(Path(name)))


def list_remote(inputs: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Scans in object storage as :func:`ichseg.folder.list_scans` lists those of a folder; none is fetched.

    Args:
        inputs: URLs of folders, of scans, or of tables whose column ``image`` names them.
        folder: where they will lie while they are segmented.

    Returns:
        per scan ``case``, ``image`` (its place in ``folder``), and under ``remote`` its ``url``, ``bytes`` and
        ``version``.

    Raises:
        IchsegError: nothing is there, or it cannot be reached.
    """
    named = [url for one in inputs for url in (_of_table(one) if one.lower().endswith(ENDINGS) else [one.rstrip("/")])]
    roots = [(posixpath.dirname(url) if is_nifti(url) else url).split("/") for url in named]
    same = os.path.commonprefix(roots)  # noqa: RUF071 (of lists, part by part; a path would lose double slashes)
    root = "/".join(same)
    if len(same) < 3:  # nothing in common but the kind of storage
        raise IchsegError(f"{named[0]}, {named[-1]}: inputs in several places; run them one by one")
    found: dict[str, dict[str, Any]] = {}
    for url in (one for one in named if not is_nifti(one)):
        store = Store(url)
        others = 0
        for name, (size, version) in store.files().items():
            if is_nifti(name) and not scan_name(name).endswith((*MASK_POSTFIXES, PROBABILITY_POSTFIX)):
                one = f"{store.url}/{name}"
                found[one] = {"url": one, "bytes": size, "version": version, "store": store, "name": name}
            else:
                others += 1
        if others:
            logger.warning("%s: skipped %d object(s): masks or not NIfTI", store.url, others)
    alone = [url for url in named if is_nifti(url)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [pool.submit(_look, url) for url in alone]
        for job in progress(jobs, "looking at scans", leave=False) if jobs else ():
            found[job.result()["url"]] = job.result()
    if not found:
        raise IchsegError(f"{', '.join(named)}: no .nii or .nii.gz objects there")
    scans = []
    for url, about in sorted(found.items()):
        name = url[len(root) :].lstrip("/")
        if not inside(name):
            raise IchsegError(f"{url}: its name leads out of the folder of all scans")
        case = posixpath.join(posixpath.dirname(name), scan_name(name))
        why = {"broken": about.pop("broken")} if "broken" in about else {}
        scans.append({"case": case, "image": str(folder / name), REMOTE: about, **why})
    return scans


def _look(url: str) -> dict[str, Any]:
    """What is known of one scan; one that cannot be reached fails when its turn comes."""
    store = Store(url)
    try:
        about = again(store.info)
    except Exception as error:  # every kind of storage has errors of its own
        return {"url": url, "store": store, "name": "", "broken": f"cannot be reached ({one_line(error)})"}
    known = {} if about is None else {"bytes": about[0], "version": about[1]}
    return {"url": url, "store": store, "name": "", **known}


def _of_table(table: str) -> list[str]:
    """The URLs that a table names; relative ones are relative to the URL of the table."""
    if not is_url(table):
        return names_in(Path(table))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / posixpath.basename(table)
        told(table, partial(Store(table).fetch, "", file))
        return [name if is_url(name) else posixpath.join(posixpath.dirname(table), name) for name in names_in(file)]


def fetch_scan(case: dict[str, Any]) -> None:
    """A scan as a file; one that cannot be fetched is marked, and fails when its turn comes."""
    about = case.get(REMOTE)
    if about is None or "broken" in case:
        return
    try:
        about["store"].fetch(about["name"], Path(case["image"]))
    except Exception as error:  # every kind of storage has errors of its own
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        gone = isinstance(error, FileNotFoundError)
        case["broken"] = "not found" if gone else f"cannot be fetched ({one_line(error)})"
