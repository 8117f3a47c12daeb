"""``ichseg pacs``: asks a DICOMweb server for head CT, stores segmentations there."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from ichseg.cli.listen import make_service, service_options
from ichseg.errors import DONE, SOME_FAILED, USAGE, IchsegError

if TYPE_CHECKING:
    from ichseg.dicom.network import Destination

HELP = "Fetch CT studies from a DICOMweb server, segment them, and store the results there. Needs ichseg[dicom]."
EXAMPLE = """ichseg pacs SPOOL --dicomweb http://localhost:8042/dicom-web --days 1
  ichseg pacs SPOOL --dicomweb URL --query PatientID=4711 --dry-run
  ichseg pacs SPOOL --dicomweb URL --every 60         keep asking, once a minute
  (credentials: --user NAME with the password in ICHSEG_PASSWORD, or a bearer token in ICHSEG_TOKEN)"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spool", metavar="SPOOL", help="folder for fetched images, results, and what is to be sent")
    parser.add_argument("--dicomweb", required=True, metavar="URL", help="root of the server's DICOMweb services")
    parser.add_argument("--days", type=int, metavar="N", help="only studies of the last N days (default: all)")
    parser.add_argument(
        "--query", action="append", default=[], metavar="KEY=VALUE", help="only studies that match; can be repeated"
    )
    parser.add_argument("--most", type=int, metavar="N", help="fetch at most N studies at a time")
    parser.add_argument(
        "--every", type=float, metavar="SECONDS", help="time between queries (default: query once and stop)"
    )
    parser.add_argument("--user", metavar="NAME", help="for basic authentication")
    service_options(parser)


def run(args: argparse.Namespace) -> int:
    from ichseg.dicom.network import WebDestination
    from ichseg.dicom.spool import Spool
    from ichseg.dicom.web import Source, client

    query = {}
    for word in args.query:
        key, separator, value = word.partition("=")
        if not separator or not key:
            raise IchsegError(f"--query {word}: expected KEY=VALUE, such as PatientID=4711")
        query[key] = value
    web = client(args.dicomweb, args.user, os.environ.get("ICHSEG_PASSWORD"), os.environ.get("ICHSEG_TOKEN"))
    name = _without_secrets(args.dicomweb)
    spool = Spool(args.spool, args.min_free)
    destinations: list[Destination] = [WebDestination(web, name)]
    service, source = make_service(args, spool, destinations, quiet_seconds=0.0), Source(web, name, query)
    with spool.opened():
        while True:
            fetched, missed, trouble = 0, 0, ""
            try:
                fetched, missed = source.fetch(spool, args.days, args.most)
            except IchsegError as error:  # what is there is worked on all the same
                trouble = str(error)
                print(f"ichseg: error: {trouble}", file=sys.stderr, flush=True)
            service.drain()
            unsent = 0 if args.dry_run else len(list(spool.outbox.glob("*.json")))
            left = {
                "could not be fetched": missed,
                "could not be segmented, see results.csv": len(service.failed),
                "not segmented yet": len(spool.waiting()),
                "not sent yet": unsent,
            }
            told = "".join(f"; {count} {what}" for what, count in left.items() if count)
            again = "; run again" if args.every is None and (missed or spool.waiting() or unsent) else ""
            print(f"{fetched} studies fetched from {name}{told}{again}", flush=True)
            if args.every is None:
                return USAGE if trouble else SOME_FAILED if told else DONE
            time.sleep(args.every)


def _without_secrets(url: str) -> str:
    """The address without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
