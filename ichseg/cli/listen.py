"""``ichseg listen``: takes head CT from a PACS or scanner, sends segmentations back."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ichseg.cli.options import backend_option, device_options
from ichseg.defaults import DICOM_OBJECTS, DICOM_WRITTEN
from ichseg.errors import DONE, IchsegError
from ichseg.overrides import object_kinds

if TYPE_CHECKING:
    from ichseg.dicom.network import Destination, DimseDestination, Listener, Security
    from ichseg.dicom.service import Service
    from ichseg.dicom.spool import Spool

HELP = "Receive CT studies over the DICOM network, segment them, and send the results back. Needs ichseg[dicom]."
EXAMPLE = """ichseg listen SPOOL --host 0.0.0.0 --port 11112 --aet ICHSEG --send-to PACS@10.0.0.5:104 --allow PACS
  ichseg listen SPOOL --port 11112 --dry-run        receive and segment, send nothing
  (SPOOL keeps everything until it was sent; stop with Ctrl-C, start again with the same command)"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spool", metavar="SPOOL", help="folder for received images, results, and what is to be sent")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all (default: %(default)s)")
    parser.add_argument("--port", type=int, default=11112, help="default: %(default)s")
    parser.add_argument("--aet", default="ICHSEG", help="own AE title (default: %(default)s)")
    parser.add_argument(
        "--send-to", action="append", default=[], metavar="AET@HOST:PORT", help="where results go; can be repeated"
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="AET[@HOST]",
        help="who may connect; can be repeated (default: anyone)",
    )
    parser.add_argument("--quiet", type=float, default=30.0, metavar="SECONDS",
                        help="seconds without a new image after which a study is complete (default: 30)")  # fmt: skip
    parser.add_argument(
        "--max-associations", type=int, default=10, metavar="N", help="maximum simultaneous associations (default: 10)"
    )
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"), help="PEM files: TLS in both directions")
    parser.add_argument(
        "--tls-authority", metavar="FILE", help="PEM file of the CA that must have signed the other side's certificate"
    )
    service_options(parser)


def service_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that segments what comes from a PACS."""
    parser.add_argument("--weights", metavar="FILE", help="weight file (default: the model shipped with ichseg)")
    parser.add_argument("--series", default="best", metavar="RULE", help="see 'ichseg segment --help' (default: best)")
    parser.add_argument(
        "--dicom", default=",".join(DICOM_WRITTEN), metavar="KIND,...",
        help=f"objects to send: {', '.join(DICOM_OBJECTS)} (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--keep", type=float, default=24.0, metavar="HOURS",
                        help="how long to keep received images after their study is done (default: 24)")  # fmt: skip
    parser.add_argument("--min-free", type=float, default=2.0, metavar="GIB",
                        help="refuse images when free disk space falls below this (default: 2)")  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="send nothing; results stay in SPOOL/results until a run without it"
    )
    backend_option(parser)
    device_options(parser)


def make_service(args: argparse.Namespace, spool: Spool, destinations: Sequence[Destination], **more: Any) -> Service:
    """The service that :func:`service_options` describe."""
    from ichseg.late import import_monai

    import_monai()
    from ichseg.bundle import weight_file
    from ichseg.devices import pick_device
    from ichseg.dicom.service import Service
    from ichseg.networks import segmenter_settings

    kinds = object_kinds("--dicom", args.dicom)
    pick_device(args.device)
    weights = weight_file(args.weights)
    segmenter_settings(weights)  # what is wrong is told before anything is received
    values = {"dicom_objects": kinds, "device_name": args.device, "precision": args.precision, "backend": args.backend}
    return Service(
        spool, weights, [] if args.dry_run else destinations, values,
        series=args.series, keep_hours=args.keep, **more,
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from ichseg.dicom.network import DimseDestination, Listener
    from ichseg.dicom.spool import Spool

    if not args.send_to and not args.dry_run:
        raise IchsegError("name where results go with --send-to AET@HOST:PORT, or use --dry-run")
    security = _security(args)
    destinations = [DimseDestination(one, args.aet, security) for one in args.send_to]
    spool = Spool(args.spool, args.min_free)
    service = make_service(args, spool, destinations, quiet_seconds=args.quiet)
    listener = Listener(spool, args.aet, args.host, args.port, tuple(args.allow), security, args.max_associations)
    with spool.opened():
        return _listen(args, service, listener, [] if args.dry_run else destinations)


def _listen(args: argparse.Namespace, service: Service, listener: Listener, called: Sequence[DimseDestination]) -> int:
    server = listener.start()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: service.stopped.set())
    print(f"listening as {args.aet} on {args.host}:{server.server_address[1]}; stop with Ctrl-C", flush=True)
    if not args.allow:
        print("anyone who can reach this port may send; restrict this with --allow AET@HOST", flush=True)
    for destination in called:  # a host that does not answer takes its time
        threading.Thread(target=_echo, args=[destination], daemon=True).start()
    try:
        service.run()
    finally:
        server.shutdown()
    print("stopped; start again with the same command")
    return DONE


def _echo(destination: DimseDestination) -> None:
    """Say at once, not after the first study, if nobody is there to take results."""
    try:
        destination.echo()
    except IchsegError as error:
        told = "results that cannot be sent are kept in the spool and tried again"
        print(f"warning: {error}; {told}", flush=True)


def _security(args: argparse.Namespace) -> Security | None:
    from ichseg.dicom.network import Security

    if args.tls is None:
        if args.tls_authority:
            raise IchsegError("--tls-authority needs --tls CERTIFICATE KEY")
        return None
    certificate, key = map(Path, args.tls)
    return Security(certificate, key, Path(args.tls_authority) if args.tls_authority else None)
