"""DICOM over the network: receiving by C-STORE, sending by C-STORE or STOW-RS."""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from ichseg.dicom.extra import dicom_package
from ichseg.dicom.headers import CT, ENHANCED_CT
from ichseg.dicom.spool import DiskFull, Spool
from ichseg.errors import IchsegError
from ichseg.version import __version__

logger = logging.getLogger(__name__)
SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND, NOT_AUTHORIZED = 0x0000, 0xA700, 0xC000, 0x0124
ADDRESS = re.compile(r"(?P<aet>[^@:]{1,16})@(?P<host>[^@]+):(?P<port>\d{1,5})")
TIMEOUT_SECONDS = 60
PURPOSE = "the DICOM network"


class NotSent(IchsegError):
    """The other side cannot be reached, or refuses: to be tried again."""


class Destination(Protocol):
    """Where objects go."""

    name: str

    def send(self, paths: Sequence[Path], arrived: Callable[[Path, str], None]) -> None:
        """Send files, calling ``arrived`` with each and its SOPInstanceUID.

        Raises:
            NotSent: some did not arrive.
        """


@dataclass(frozen=True)
class Security:
    """Certificates for TLS.

    Attributes:
        certificate, key: PEM files of this side.
        authority: PEM file of who signed the other side's; with it, the other side must have one.
    """

    certificate: Path
    key: Path
    authority: Path | None = None

    def context(self, server: bool) -> ssl.SSLContext:
        """For the side that listens, or the one that calls.

        Raises:
            IchsegError: a file cannot be used.
        """
        purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
        try:
            made = ssl.create_default_context(purpose, cafile=self.authority)
            made.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise IchsegError(f"TLS: {self.certificate}, {self.key}: {error}") from None
        if server and self.authority is not None:
            made.verify_mode = ssl.CERT_REQUIRED
        return made


class DimseDestination:
    """An application entity that takes C-STORE.

    Args:
        address: ``AET@HOST:PORT``.
        own_aet: title to call with.
        security: for TLS.

    Raises:
        IchsegError: the address is none.
    """

    def __init__(self, address: str, own_aet: str, security: Security | None = None) -> None:
        found = ADDRESS.fullmatch(address)
        if found is None or not 0 < int(found["port"]) < 65536:
            raise IchsegError(f"--send-to {address}: expected AET@HOST:PORT, such as PACS@10.0.0.5:104")
        self.name, self.own_aet = address, own_aet
        self.aet, self.host, self.port = found["aet"], found["host"], int(found["port"])
        self.context = None if security is None else security.context(server=False)

    def send(self, paths: Sequence[Path], arrived: Callable[[Path, str], None]) -> None:
        pydicom = dicom_package("pydicom", PURPOSE)
        found = [(path, pydicom.dcmread(path)) for path in paths]
        kinds = {(str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)) for _, one in found}
        association = self._associate(sorted(kinds))
        try:
            for path, one in found:
                try:
                    status = association.send_c_store(one)
                except (RuntimeError, ValueError) as error:
                    raise NotSent(f"{self.name}: {error}") from None
                if "Status" not in status or status.Status not in (SUCCESS, 0xB000, 0xB006, 0xB007):
                    code = f"status 0x{status.Status:04x}" if "Status" in status else "no answer"
                    raise NotSent(f"{self.name}: an object was not accepted ({code})")
                arrived(path, str(one.SOPInstanceUID))
        finally:
            if association.is_established:
                association.release()

    def echo(self) -> None:
        """Ask whether the other side is there (C-ECHO).

        Raises:
            NotSent: it is not.
        """
        association = self._associate([("1.2.840.10008.1.1", "1.2.840.10008.1.2")])
        try:
            status = association.send_c_echo()
            if "Status" not in status or status.Status != SUCCESS:
                raise NotSent(f"{self.name}: no answer to C-ECHO")
        finally:
            if association.is_established:
                association.release()

    def _associate(self, kinds: Sequence[tuple[str, str]]) -> Any:
        entity = _entity(self.own_aet)
        for kind, syntax in kinds:
            entity.add_requested_context(kind, [syntax])
        options = {} if self.context is None else {"tls_args": (self.context, self.host)}
        association = entity.associate(self.host, self.port, ae_title=self.aet, **options)
        if not association.is_established:
            why = "refuses the association" if association.is_rejected else "cannot be reached"
            raise NotSent(f"{self.name}: {why}")
        return association


class WebDestination:
    """A DICOMweb server that takes STOW-RS.

    Args:
        client: of :func:`ichseg.dicom.web.client`.
        name: for messages.
    """

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name

    def send(self, paths: Sequence[Path], arrived: Callable[[Path, str], None]) -> None:
        pydicom = dicom_package("pydicom", PURPOSE)
        for path in paths:
            one = pydicom.dcmread(path)
            try:
                answer = self.client.store_instances([one])
            except Exception as error:  # requests' own, and those of the server's answers
                raise NotSent(f"{self.name}: {' '.join(str(error).split())[:160]}") from None
            if "FailedSOPSequence" in answer and answer.FailedSOPSequence:
                raise NotSent(f"{self.name}: an object was not accepted")
            arrived(path, str(one.SOPInstanceUID))


@dataclass(frozen=True)
class Listener:
    """A Storage SCP for CT that puts what it gets into a spool.

    Attributes:
        spool: where to.
        aet: its title; calls for another are refused.
        host, port: where it listens; port 0: any free one.
        allowed: ``AET`` or ``AET@HOST`` of those that may call; empty: all.
        security: for TLS.
        most_associations: at the same time.
    """

    spool: Spool
    aet: str
    host: str
    port: int
    allowed: tuple[str, ...] = ()
    security: Security | None = None
    most_associations: int = 10

    def start(self) -> Any:
        """Begin to listen in threads of its own; returns the server, with ``server_address`` and ``shutdown()``.

        Raises:
            IchsegError: the port cannot be had.
        """
        events = dicom_package("pynetdicom", PURPOSE).evt
        entity = _entity(self.aet)
        entity.require_called_aet = True
        entity.maximum_associations = self.most_associations
        if self.allowed:
            entity.require_calling_aet = sorted({one.split("@")[0] for one in self.allowed})
        syntaxes = dicom_package("pynetdicom", PURPOSE).ALL_TRANSFER_SYNTAXES
        for kind in (CT, *ENHANCED_CT):
            entity.add_supported_context(kind, syntaxes)
        entity.add_supported_context("1.2.840.10008.1.1")
        handlers = [(events.EVT_C_STORE, self._store), (events.EVT_ACCEPTED, self._accepted)]
        context = None if self.security is None else self.security.context(server=True)
        try:
            return entity.start_server((self.host, self.port), block=False, evt_handlers=handlers, ssl_context=context)
        except OSError as error:
            raise IchsegError(f"--host {self.host} --port {self.port}: {error.strerror or error}") from None

    def _accepted(self, event: Any) -> None:
        if not self._may_call(event.assoc):
            logger.warning("refused a caller that is not on the allow-list (%s)", event.assoc.requestor.address)
            event.assoc.abort()

    def _may_call(self, association: Any) -> bool:
        if not self.allowed:
            return True
        title, host = association.requestor.ae_title, association.requestor.address
        return title in self.allowed or f"{title}@{host}" in self.allowed

    def _store(self, event: Any) -> int:
        if not self._may_call(event.assoc):
            return NOT_AUTHORIZED
        pydicom = dicom_package("pydicom", PURPOSE)
        try:
            data = event.encoded_dataset()
            tags = ["StudyInstanceUID", "SOPInstanceUID"]
            header = pydicom.dcmread(BytesIO(data), stop_before_pixels=True, specific_tags=tags)
            study, instance = str(header.StudyInstanceUID), str(header.SOPInstanceUID)
        except Exception as error:  # whatever a broken object does to the parser
            logger.warning("refused an object that cannot be read (%s)", type(error).__name__)
            return CANNOT_UNDERSTAND
        try:
            self.spool.receive(study, instance, data)
        except DiskFull as error:
            logger.error("%s", error)
            return OUT_OF_RESOURCES
        return SUCCESS


def _entity(title: str) -> Any:
    """An application entity of pynetdicom.

    Raises:
        IchsegError: the title is none.
    """
    pynetdicom = dicom_package("pynetdicom", PURPOSE)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # its errors name what the objects hold
    try:
        entity = pynetdicom.AE(title)
    except (TypeError, ValueError) as error:
        raise IchsegError(f"AE title '{title}': {error}") from None
    entity.implementation_version_name = f"ICHSEG_{__version__}"[:16]
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = TIMEOUT_SECONDS
    entity.connection_timeout = 10
    return entity
