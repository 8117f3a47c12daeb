"""DICOM over the network: receiving by C-STORE, sending by C-STORE or STOW-RS."""

from __future__ import annotations

import logging
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from ichseg.dicom.extra import dicom_package
from ichseg.dicom.headers import CT, ENHANCED_CT
from ichseg.dicom.spool import DiskFull, Spool
from ichseg.errors import IchsegError
from ichseg.version import __version__

logger = logging.getLogger(__name__)
SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
UNKNOWN_CALLER = (1, 1, 3)  # permanently; by the service user; calling AE title not recognized (PS3.8, 9.3.4)
ADDRESS = re.compile(r"(?P<aet>[^@:]{1,16})@(?P<host>[^@]+):(?P<port>\d{1,5})")
TIMEOUT_SECONDS = 60
PURPOSE = "the DICOM network"


class NotSent(IchsegError):
    """The other side cannot be reached, or refuses: to be tried again."""


class Unreachable(NotSent):
    """The other side is not there at all."""


class Destination(Protocol):
    """Where objects go."""

    name: str

    def send(self, paths: Sequence[Path], arrived: Callable[[Path, str], None]) -> dict[Path, str]:
        """Send files, calling ``arrived`` with each that arrives and its SOPInstanceUID.

        Returns:
            those that were refused, and why.

        Raises:
            NotSent: the connection broke, or there was none.
        """


class _LateHandshake(ssl.SSLContext):
    """The handshake waits for the caller's first bytes: one that sends nothing must not keep others out."""

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*args, **{**kwargs, "do_handshake_on_connect": False})


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
        try:
            if server:
                made: ssl.SSLContext = _LateHandshake(ssl.PROTOCOL_TLS_SERVER)
                if self.authority is not None:
                    made.load_verify_locations(self.authority)
            else:
                made = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=self.authority)
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
        self.authority = None if security is None else security.authority

    def send(self, paths: Sequence[Path], arrived: Callable[[Path, str], None]) -> dict[Path, str]:
        pydicom = dicom_package("pydicom", PURPOSE)
        found = [(path, pydicom.dcmread(path)) for path in paths]
        kinds = {(str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)) for _, one in found}
        association = self._associate(sorted(kinds))
        refused: dict[Path, str] = {}
        if not association.is_established:  # nothing of it is accepted
            return {path: f"{self.name} does not accept {one.SOPClassUID.name}" for path, one in found}
        try:
            for path, one in found:
                try:
                    status = association.send_c_store(one)
                except RuntimeError:
                    raise NotSent(f"{self.name}: the connection broke") from None
                except ValueError:  # no presentation context was accepted
                    refused[path] = f"{self.name} does not accept {one.SOPClassUID.name}"
                    continue
                if "Status" not in status:
                    raise NotSent(f"{self.name}: no answer")
                if status.Status in (SUCCESS, 0xB000, 0xB006, 0xB007):
                    arrived(path, str(one.SOPInstanceUID))
                elif status.Status & 0xFF00 == OUT_OF_RESOURCES:
                    raise NotSent(f"{self.name}: out of resources (status 0x{status.Status:04x})")
                else:
                    refused[path] = f"{self.name} refused an object (status 0x{status.Status:04x})"
        finally:
            if association.is_established:
                association.release()
        return refused

    def echo(self) -> None:
        """Ask whether the other side is there (C-ECHO).

        Raises:
            NotSent: it is not.
        """
        association = self._associate([("1.2.840.10008.1.1", "1.2.840.10008.1.2")])
        if not association.is_established:
            return  # somebody is there who does not know C-ECHO
        try:
            status = association.send_c_echo()
            if "Status" not in status or status.Status != SUCCESS:
                raise NotSent(f"{self.name}: no answer to C-ECHO")
        except RuntimeError:
            raise NotSent(f"{self.name}: the connection broke") from None
        finally:
            if association.is_established:
                association.release()

    def _associate(self, kinds: Sequence[tuple[str, str]]) -> Any:
        entity = _entity(self.own_aet)
        for kind, syntax in kinds:
            entity.add_requested_context(kind, [syntax])
        options = {} if self.context is None else {"tls_args": (self.context, self.host)}
        try:
            association = entity.associate(self.host, self.port, ae_title=self.aet, **options)
        except OSError as error:  # a name that is not known
            raise Unreachable(f"{self.name}: cannot be reached ({error.strerror or error})") from None
        if not association.is_established and not association.rejected_contexts:
            why = "refuses the association" if association.is_rejected else self._tls_trouble() or "cannot be reached"
            raise Unreachable(f"{self.name}: {why}")
        return association

    def _tls_trouble(self) -> str:
        """Why no TLS connection comes about, in words; empty if that is not the reason. (pynetdicom does not tell.)"""
        if self.context is None:
            return ""
        try:
            with (
                socket.create_connection((self.host, self.port), timeout=5) as raw,
                self.context.wrap_socket(raw, server_hostname=self.host) as wrapped,
            ):
                wrapped.settimeout(1)
                wrapped.recv(1)  # what the other side thinks of our certificate comes after the handshake
        except ssl.SSLCertVerificationError as error:
            step = "check" if self.authority else "name the CA that signed it with"
            return f"its certificate is not accepted ({error.verify_message.rstrip('.')}); {step} --tls-authority"
        except ssl.SSLError as error:
            return f"no TLS connection ({(error.reason or str(error)).lower().replace('_', ' ')})"
        except OSError:
            return ""
        return ""


class WebDestination:
    """A DICOMweb server that takes STOW-RS.

    Args:
        client: of :func:`ichseg.dicom.web.client`.
        name: for messages.
    """

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name

    def send(self, paths: Sequence[Path], arrived: Callable[[Path, str], None]) -> dict[Path, str]:
        pydicom = dicom_package("pydicom", PURPOSE)
        refused: dict[Path, str] = {}
        for path in paths:
            one = pydicom.dcmread(path)
            try:
                answer = self.client.store_instances([one])
            except Exception as error:  # requests' own, and those of the server's answers
                code = status_code(error)
                if code is not None and 400 <= code < 500 and code not in (401, 403, 408, 429):
                    refused[path] = f"{self.name} refused an object (HTTP {code})"
                    continue
                kind = NotSent if code is not None else Unreachable
                raise kind(f"{self.name}: {what_failed(error)}") from None
            if "FailedSOPSequence" in answer and answer.FailedSOPSequence:
                refused[path] = f"{self.name} refused an object"
            else:
                arrived(path, str(one.SOPInstanceUID))
        return refused


def status_code(error: Exception) -> int | None:
    """Of an HTTP answer that was an error; None if there was no answer."""
    answer = getattr(error, "response", None)
    return None if answer is None else int(answer.status_code)


def what_failed(error: Exception) -> str:
    """An error of a web request in words that quote neither address nor query."""
    code = status_code(error)
    return f"HTTP {code}" if code is not None else f"cannot be reached ({type(error).__name__})"


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
        syntaxes = dicom_package("pynetdicom", PURPOSE).ALL_TRANSFER_SYNTAXES
        for kind in (CT, *ENHANCED_CT):
            entity.add_supported_context(kind, syntaxes)
        entity.add_supported_context("1.2.840.10008.1.1")
        handlers = [(events.EVT_C_STORE, self._store), (events.EVT_REQUESTED, self._requested)]
        context = None if self.security is None else self.security.context(server=True)
        try:
            return entity.start_server((self.host, self.port), block=False, evt_handlers=handlers, ssl_context=context)
        except OverflowError:
            raise IchsegError(f"--port {self.port}: expected 0 to 65535") from None
        except OSError as error:
            raise IchsegError(f"--host {self.host} --port {self.port}: {error.strerror or error}") from None

    def _requested(self, event: Any) -> None:
        if not self._may_call(event.assoc):
            logger.warning("refused a caller that is not on the allow-list (%s)", event.assoc.requestor.address)
            event.assoc.acse.send_reject(*UNKNOWN_CALLER)  # before it is accepted: nothing can be sent in between
            event.assoc.kill()

    def _may_call(self, association: Any) -> bool:
        if not self.allowed:
            return True
        title = association.requestor.primitive.calling_ae_title.strip()
        host = association.requestor.address
        for one in self.allowed:
            name, _, wanted = one.partition("@")
            if name == title and (not wanted or host in _addresses(wanted)):
                return True
        return False

    def _store(self, event: Any) -> int:
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


@lru_cache(maxsize=256)
def _addresses(host: str) -> frozenset[str]:
    """A host as callers are known by."""
    try:
        return frozenset({host, *(str(found[4][0]) for found in socket.getaddrinfo(host, None))})
    except (OSError, UnicodeError):  # no such host, or no host's name
        return frozenset({host})


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
