"""Studies from a spool through the network and back to where they came from, until told to stop."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ichseg.dicom.choice import BEST
from ichseg.dicom.files import Source
from ichseg.dicom.headers import read_dataset
from ichseg.dicom.listing import list_series
from ichseg.dicom.network import Destination, NotSent, Unreachable
from ichseg.dicom.spool import Spool
from ichseg.dicom.writer import objects_of
from ichseg.errors import IchsegError, Stopped, one_line
from ichseg.folder.configured import configured_runner
from ichseg.networks import segmenter_settings

logger = logging.getLogger(__name__)
BATCH = 20  # studies that one run of the network takes
TRIES, REFUSALS = 3, 5  # of segmenting what failed, and of sending what is refused
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 600.0  # seconds before what was not sent is tried again


class Service:
    """Segments what a spool has received and sends the results.

    Args:
        spool: the folder.
        weights: weight file.
        destinations: where results go; none: they stay in the spool's ``results`` until a service with
            some sends them.
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
        self.failed: set[str] = set()  # studies of which a series could not be segmented
        self._again: dict[str, tuple[int, float]] = {}  # study -> how often it was tried, and when it is again

    def run(self, wait: float = 1.0) -> None:
        """Work until :attr:`stopped` is set; what is under way is finished first.

        Args:
            wait: seconds between looks at the spool.
        """
        self._release()
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
        self.spool.forget(self.keep_hours)
        todo = [study for study in self.spool.waiting() if self._again.get(study, (0, 0.0))[1] <= time.time()][:BATCH]
        if todo:
            try:
                self._segment_each(todo)
            except (Stopped, OSError) as error:
                logger.error("%s; waiting for free disk space", one_line(error))
                self.stopped.wait(self.first_pause)
                return 0
        return len(todo)

    def _segment_each(self, studies: Sequence[str]) -> None:
        """Segment studies together; if that fails, one by one, and what cannot be done keeps no other from it."""
        try:
            self._segment(studies)
        except (Stopped, OSError):
            raise
        except Exception as error:
            if len(studies) > 1:
                for study in studies:
                    self._segment_each([study])
                return
            (study,) = studies
            logger.debug("study %s", study, exc_info=error)
            why = {"status": "failed", "stage": "run", "message": one_line(error)}
            if not isinstance(error, IchsegError) and self._try_again(study, [why]):  # no memory left, say
                return
            images = [file.name for file in (self.spool.studies / study).glob("*.dcm")]
            self.spool.finish(study, images, {}, f"failed: {one_line(error)}", list(self.destinations))
            self.failed.add(study)
            logger.error("study %s: failed: %s", study, one_line(error))

    def _try_again(self, study: str, rows: Sequence[Mapping[str, Any]]) -> bool:
        """True for a failure that may be the machine's rather than the files': it is tried a few times."""
        passing = [row for row in rows if row["status"] == "failed" and row.get("stage") != "read"]
        tries = self._again.get(study, (0, 0.0))[0] + 1
        if not passing or tries >= TRIES:
            self._again.pop(study, None)
            return False
        self._again[study] = tries, time.time() + self._pause(tries)
        logger.warning("study %s: %s; will be tried again", study, passing[0]["message"])
        return True

    def _pause(self, tries: int) -> float:
        return float(min(self.first_pause * 2 ** min(tries, 20), LONGEST_PAUSE))

    def _release(self) -> None:
        if count := self.spool.release(list(self.destinations)):
            logger.info("%d studies were segmented in a dry run; their results are sent now", count)

    def drain(self) -> None:
        """Segment and send all there is, once."""
        self._release()
        while self.step():
            pass
        self.send()

    # --- segmenting ---------------------------------------------------------------------------------------------
    def _segment(self, studies: Sequence[str]) -> None:
        images = {s: [file.name for file in (self.spool.studies / s).glob("*.dcm")] for s in studies}
        folders = [self.spool.studies / study for study in studies]
        output = self.spool.month
        entries = list_series(folders, str(self.spool.studies), output, self.series)
        values = {
            "dataset_dir": self.spool.studies, "data_root_dir": "", "output_dir": output,
            "weights": self.weights, "report": False, "evaluator::keep_rows": True,
            **{key: value for key, value in self.values.items() if value is not None},
        }  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as for any run of a bundle
            config = segmenter_settings(self.weights).pipeline
            runner = configured_runner("ich_segmentation", config, values, entries)
            rows = {row["case"]: row for row in runner.run()}
        for study in studies:
            own = [rows[entry["case"]] for entry in entries if _study_of(entry["case"]) == study]
            if self._try_again(study, own):
                continue
            done = [row for row in own if row["status"] in ("ok", "flagged")]
            files = [file for row in done for file in objects_of(output / row["case"])]
            objects = {str(file.relative_to(self.spool.results)): _uid_of(file) for file in files}
            outcome = _outcome(own, done)
            if any(row["status"] == "failed" for row in own):
                self.failed.add(study)
            else:
                self.failed.discard(study)
            self.spool.finish(study, images[study], objects, outcome, list(self.destinations))
            logger.info("study %s: %s", study, outcome)

    # --- sending ------------------------------------------------------------------------------------------------
    def _send_on(self, wait: float) -> None:
        while not self.stopped.is_set():
            try:
                self.send()
            except Exception as error:  # a full disk, say: what is queued stays queued
                logger.error("%s", one_line(error))
            self.stopped.wait(wait)

    def send(self) -> None:
        """Try everything that is due, once; of a destination that cannot be reached, only the first."""
        away: dict[str, str] = {}
        for study, name, entry in self.spool.due():
            destination = self.destinations.get(name)
            if destination is None:
                continue  # of an earlier run with other destinations; it waits for one
            if self.stopped.is_set() and away:
                return
            if name in away:
                self._put_off(study, name, entry, away[name])
                continue
            try:
                refused = self._send_one(study, destination, entry)
            except Unreachable as error:
                away[name] = str(error)
                self._put_off(study, name, entry, str(error))
            except NotSent as error:
                self._put_off(study, name, entry, str(error))
            except Exception as error:  # of this entry alone, such as a file that was removed
                self._put_off(study, name, entry, one_line(error))
            else:
                if refused and entry["tries"] + 1 < REFUSALS:
                    self._put_off(study, name, entry, "; ".join(sorted(set(refused.values()))))
                    continue
                self.spool.delivered(study, name, entry)
                if refused:
                    self.spool.note(study, undeliverable={name: refused})
                    logger.error("study %s: %s keeps refusing %s; giving up", study, name, ", ".join(sorted(refused)))
                else:
                    logger.info("study %s: %d objects sent to %s", study, len(entry["objects"]), name)

    def _send_one(self, study: str, destination: Destination, entry: Mapping[str, Any]) -> dict[str, str]:
        """Send what has not arrived; returns what was refused: name -> why."""
        there = self.spool.known(study).get("sent", {}).get(destination.name, {})
        paths = {self.spool.results / one: one for one in entry["objects"]}
        lacking = [path for path, one in paths.items() if one not in there or _uid_of(path) != there[one]]

        def arrived(path: Path, uid: str) -> None:
            self.spool.sent(study, destination.name, paths[path], uid)

        refused = destination.send(lacking, arrived) if lacking else {}
        return {paths[path]: why for path, why in refused.items()}

    def _put_off(self, study: str, name: str, entry: Mapping[str, Any], why: str) -> None:
        pause = self._pause(entry["tries"])
        logger.warning("study %s: %s; kept, next try in %.0f s", study, why, pause)
        self.spool.postpone(study, name, entry, pause)


def _uid_of(path: Path) -> str:
    """SOPInstanceUID of an object."""
    header = read_dataset(Source(path), pixels=False, only=("SOPClassUID", "SOPInstanceUID"))
    return str(header.SOPInstanceUID)


def _study_of(case: str) -> str:
    return case.split("/")[0].split("_")[0]


def _outcome(rows: Sequence[Mapping[str, Any]], done: Sequence[Mapping[str, Any]]) -> str:
    if done:
        return "; ".join(f"{row['volume_ml']:g} mL{' (flagged)' if row['status'] == 'flagged' else ''}" for row in done)
    failed = [row for row in rows if row["status"] == "failed"]
    if failed:
        return f"failed: {failed[0]['message']}"
    return f"no head CT to segment ({rows[0]['message']})" if rows else "no images"
