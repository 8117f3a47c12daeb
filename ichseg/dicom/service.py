"""Studies from a spool through the network and back to where they came from, until told to stop."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ichseg.bundle import BundleParts
from ichseg.dicom.choice import BEST
from ichseg.dicom.files import Source
from ichseg.dicom.headers import read_dataset
from ichseg.dicom.listing import list_series
from ichseg.dicom.network import Destination, NotSent
from ichseg.dicom.spool import Spool
from ichseg.errors import one_line
from ichseg.networks import segmenter_settings

logger = logging.getLogger(__name__)
BATCH = 20  # studies that one run of the network takes
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 600.0  # seconds before what was not sent is tried again


class Service:
    """Segments what a spool has received and sends the results.

    Args:
        spool: the folder.
        weights: weight file.
        destinations: where results go; none: they stay in the spool's ``results``.
        values: of the inference config, such as ``device_name``.
        quiet_seconds: a study that got no image for so long is complete.
        series: see :func:`ichseg.dicom.choose`.
        keep_hours: images and scans are removed so long after their study was done.
        first_pause: seconds until the first retry; each is twice as long as the one before.
    """

    def __init__(
        self,
        spool: Spool,
        weights: Path,
        destinations: Sequence[Destination] = (),
        values: Mapping[str, Any] | None = None,
        quiet_seconds: float = 30.0,
        series: str = BEST,
        keep_hours: float = 24.0,
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        self.spool, self.weights, self.values = spool, Path(weights), dict(values or {})
        self.destinations = {one.name: one for one in destinations}
        self.quiet_seconds, self.series, self.keep_hours = quiet_seconds, series, keep_hours
        self.first_pause = first_pause
        self.stopped = threading.Event()

    def run(self, wait: float = 1.0) -> None:
        """Work until :attr:`stopped` is set; what is under way is finished first.

        Args:
            wait: seconds between looks at the spool.
        """
        sender = threading.Thread(target=self._send_on, args=(wait,), daemon=True)
        sender.start()
        try:
            while not self.stopped.is_set():
                if not self.step():
                    self.stopped.wait(wait)
        finally:
            self.stopped.set()
            sender.join()

    def step(self) -> int:
        """Take what is complete and segment some of it; returns the number of studies."""
        for study in self.spool.claim(self.quiet_seconds):
            logger.info("study %s: received", study)
        todo = self.spool.waiting()[:BATCH]
        if todo:
            self._segment(todo)
        else:
            self.spool.forget(self.keep_hours)
        return len(todo)

    def drain(self) -> None:
        """Segment and send all there is, once."""
        while self.step():
            pass
        self.send()

    # --- segmenting ---------------------------------------------------------------------------------------------
    def _segment(self, studies: Sequence[str]) -> None:
        images = {s: [file.name for file in (self.spool.studies / s).glob("*.dcm")] for s in studies}
        folders = [self.spool.studies / study for study in studies]
        entries = list_series(folders, str(self.spool.studies), self.spool.results, self.series)
        values = {
            "dataset_dir": self.spool.studies, "data_root_dir": "", "output_dir": self.spool.results,
            "weights": self.weights, "report": False, "dataset::data": entries, "evaluator::keep_rows": True,
            **{key: value for key, value in self.values.items() if value is not None},
        }  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as for any run of a bundle
            runner = BundleParts("ich_segmentation", segmenter_settings(self.weights).pipeline, values)["evaluator"]
            rows = {row["case"]: row for row in runner.run()}
        for study in studies:
            own = [rows[entry["case"]] for entry in entries if _study_of(entry["case"]) == study]
            done = [row for row in own if row["status"] in ("ok", "flagged")]
            objects = {}
            for row in done:
                found = self.spool.results.glob(f"{row['case']}_*.dcm")
                pictures = self.spool.results.glob(f"{row['case']}_capture/*.dcm")
                for file in sorted([*found, *pictures]):
                    uid = read_dataset(
                        Source(file), pixels=False, only=("SOPClassUID", "SOPInstanceUID")
                    ).SOPInstanceUID
                    objects[str(file.relative_to(self.spool.results))] = str(uid)
            outcome = _outcome(own, done)
            self.spool.finish(study, images[study], objects, outcome, list(self.destinations))
            logger.info("study %s: %s", study, outcome)

    # --- sending ------------------------------------------------------------------------------------------------
    def _send_on(self, wait: float) -> None:
        while not self.stopped.is_set():
            try:
                self.send()
            except OSError as error:  # a full disk, say: what is queued stays queued
                logger.error("%s", one_line(error))
            self.stopped.wait(wait)

    def send(self) -> None:
        """Try everything that is due, once."""
        for study, name, entry in self.spool.due():
            destination = self.destinations.get(name)
            if destination is None:
                continue  # of an earlier run with other destinations; it waits for one
            there = self.spool.known(study).get("sent", {}).get(name, {})
            paths = {self.spool.results / one: one for one in entry["objects"]}
            lacking = [path for path, one in paths.items() if one not in there or not _same(path, there[one])]

            def arrived(path: Path, uid: str, study: str = study, name: str = name, paths: Any = paths) -> None:
                self.spool.sent(study, name, paths[path], uid)

            try:
                if lacking:
                    destination.send(lacking, arrived)
            except NotSent as error:
                pause = min(self.first_pause * 2 ** min(entry["tries"], 20), LONGEST_PAUSE)
                logger.warning("study %s: %s; kept, next try in %.0f s", study, error, pause)
                self.spool.postpone(study, name, entry, pause)
            else:
                self.spool.delivered(study, name)
                logger.info("study %s: %d objects sent to %s", study, len(paths), name)


def _same(path: Path, uid: str) -> bool:
    """True if a file is the object that was sent."""
    return bool(read_dataset(Source(path), pixels=False, only=("SOPClassUID", "SOPInstanceUID")).SOPInstanceUID == uid)


def _study_of(case: str) -> str:
    return case.split("/")[0].split("_")[0]


def _outcome(rows: Sequence[Mapping[str, Any]], done: Sequence[Mapping[str, Any]]) -> str:
    if done:
        return "; ".join(f"{row['volume_ml']:g} mL{' (flagged)' if row['status'] == 'flagged' else ''}" for row in done)
    failed = [row for row in rows if row["status"] == "failed"]
    if failed:
        return f"failed: {failed[0]['message']}"
    return f"no head CT to segment ({rows[0]['message']})" if rows else "no images"
