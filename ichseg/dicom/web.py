"""DICOMweb: which studies a server has (QIDO-RS), and their images (WADO-RS)."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

from ichseg.dicom.extra import dicom_package
from ichseg.dicom.network import what_failed
from ichseg.dicom.spool import DiskFull, Spool, short_hash
from ichseg.errors import IchsegError

logger = logging.getLogger(__name__)
PAGE = 100  # studies of one answer
# Tags: of the study, of the series, its kind, and the number of its images.
STUDY_UID, SERIES_UID, MODALITY, IMAGES = "0020000D", "0020000E", "00080060", "00201209"


def client(url: str, user: str | None = None, password: str | None = None, token: str | None = None) -> Any:
    """A client of dicomweb-client.

    Args:
        url: of the DICOMweb root, such as ``http://localhost:8042/dicom-web``.
        user, password: for basic authentication.
        token: a bearer token, instead.

    Raises:
        IchsegError: the URL is none.
    """
    package = dicom_package("dicomweb_client", "DICOMweb")
    requests = dicom_package("requests", "DICOMweb")
    session = requests.Session()
    if token:
        session.headers["Authorization"] = f"Bearer {token}"
    elif user:
        session.auth = (user, password or "")
    try:
        return package.api.DICOMwebClient(url, session=session)
    except (ValueError, TypeError) as error:
        raise IchsegError(f"--dicomweb {url}: {error}") from None


class Source:
    """Studies with CT on a DICOMweb server.

    Args:
        web: of :func:`client`.
        name: for messages and notes.
        query: DICOM attributes that studies must match, such as ``{"PatientID": "4711"}``.
    """

    def __init__(self, web: Any, name: str, query: Mapping[str, str] | None = None) -> None:
        self.web, self.name, self.query = web, name, dict(query or {})

    def fetch(self, spool: Spool, days: int | None = None, most: int | None = None) -> tuple[int, int]:
        """Put the images of studies that the spool has not seen, or that have grown since, into it.

        Args:
            spool: where to.
            days: studies of the last so many days; None: of any date.
            most: so many studies at most.

        Returns:
            how many studies were fetched, and how many could not be.

        Raises:
            IchsegError: the server cannot be asked.
            DiskFull: there is too little room.
        """
        fetched, missed = 0, 0
        for study in self._studies(days):
            if most is not None and fetched >= most:
                break
            name = short_hash(study)
            try:
                count = self._count(study)
                if count <= spool.known(name).get("fetched", {}).get(self.name, 0):
                    continue
                self._images(study, spool)
            except DiskFull:
                raise
            except Exception as error:  # requests' own, and those of broken answers
                logger.warning("study %s: not fetched (%s)", name, what_failed(error))
                missed += 1
                continue
            spool.note(name, fetched={self.name: count})
            fetched += 1
        return fetched, missed

    def _studies(self, days: int | None) -> Iterator[str]:
        query = {"ModalitiesInStudy": "CT", **self.query}
        if days is not None:
            today = datetime.date.today()
            query["StudyDate"] = f"{today - datetime.timedelta(days=days):%Y%m%d}-{today:%Y%m%d}"
        seen: set[str] = set()
        while True:
            try:
                page = self.web.search_for_studies(limit=PAGE, offset=len(seen), search_filters=query)
            except Exception as error:  # as above
                raise IchsegError(f"{self.name}: {what_failed(error)}") from None
            found = [uid for uid in (_value(study, STUDY_UID) for study in page) if uid not in seen]
            if not found:  # servers may answer with less than was asked for, and some know no offset
                return
            seen.update(found)
            yield from found

    def _series(self, study: str) -> list[dict[str, Any]]:
        """Series of CT: results that were stored there do not count."""
        return [one for one in self.web.search_for_series(study) if _value(one, MODALITY) == "CT"]

    def _count(self, study: str) -> int:
        """Images of CT; a server that does not say how many has one of each series."""
        return sum(int(_value(one, IMAGES) or 1) for one in self._series(study))

    def _images(self, study: str, spool: Spool) -> None:
        """Fetch the CT series of a study; it is there whole or not at all."""
        with spool.fetching(study) as keep:
            for series in self._series(study):
                for one in self.web.iter_series(study, _value(series, SERIES_UID)):
                    stream = BytesIO()
                    one.save_as(stream, enforce_file_format=True)
                    keep(str(one.SOPInstanceUID), stream.getvalue())


def _value(found: Mapping[str, Any], tag: str) -> str:
    return str((found.get(tag, {}).get("Value") or [""])[0])
