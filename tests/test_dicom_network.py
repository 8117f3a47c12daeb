"""The DICOM network on loopback: nothing lost, nothing twice, and no one let in who should not be."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

pydicom = pytest.importorskip("pydicom")
pynetdicom = pytest.importorskip("pynetdicom")
pytest.importorskip("highdicom")

from broken_files import head  # noqa: E402
from conftest import segmenter_file  # noqa: E402
from dicom_files import save_series  # noqa: E402
from forked import start_module  # noqa: E402

from ichseg.cli import main  # noqa: E402
from ichseg.cli.listen import _echo  # noqa: E402
from ichseg.dicom.network import DimseDestination, Listener, NotSent, Security  # noqa: E402
from ichseg.dicom.service import Service  # noqa: E402
from ichseg.dicom.spool import DiskFull, Spool, short_hash  # noqa: E402
from ichseg.errors import IchsegError  # noqa: E402

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return segmenter_file(tmp_path_factory.mktemp("weights") / "model.pt", threshold=0.0)


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> list[Path]:
    """Files of three studies."""
    folder = tmp_path_factory.mktemp("studies")
    volume = head((40, 48, 6)).astype(int)
    return [
        path
        for n in range(3)
        for path in save_series(folder / str(n), volume + n, study=f"1.2.{n}", series=f"1.2.{n}.5", shuffle=False)
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Archive:
    """A PACS that counts what it gets, and may know no segmentations."""

    def __init__(self, port: int, without: str = "") -> None:
        self.port, self.got, self.server, self.without = port, Counter(), None, without

    def __enter__(self):
        entity = pynetdicom.AE("PACS")
        for context in pynetdicom.StoragePresentationContexts:
            if context.abstract_syntax != self.without:
                entity.add_supported_context(context.abstract_syntax, pynetdicom.ALL_TRANSFER_SYNTAXES)
        entity.add_supported_context("1.2.840.10008.1.1")

        def store(event):
            self.got[str(event.dataset.SOPInstanceUID)] += 1
            return 0x0000

        handlers = [(pynetdicom.evt.EVT_C_STORE, store)]
        self.server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def __exit__(self, *_):
        self.server.shutdown()


def push(paths, port: int, aet: str = "ICHSEG", own: str = "SCANNER", **options) -> list[int]:
    """Send files; the status of each."""
    entity = pynetdicom.AE(own)
    entity.add_requested_context(CT, ["1.2.840.10008.1.2.1"])
    association = entity.associate("127.0.0.1", port, ae_title=aet, **options)
    if not association.is_established:
        return []
    found = []
    for path in paths:
        status = association.send_c_store(pydicom.dcmread(path))
        found.append(int(status.Status) if "Status" in status else -1)
    association.release()
    return found


def service_of(spool: Spool, weights: Path, archive: int | None = None, **more) -> Service:
    destinations = [] if archive is None else [DimseDestination(f"PACS@127.0.0.1:{archive}", "ICHSEG")]
    return Service(spool, weights, destinations, {"device_name": "cpu"}, quiet_seconds=0, **more)


def listener_of(spool: Spool, **more):
    server = Listener(spool, "ICHSEG", "127.0.0.1", 0, **more).start()
    return server, server.server_address[1]


def test_studies_come_back_as_objects(studies, weights, tmp_path):
    spool = Spool(tmp_path / "spool", 0)
    server, port = listener_of(spool)
    with Archive(free_port()) as archive:
        service = service_of(spool, weights, archive.port)
        assert push(studies, port) == [0] * len(studies)
        service.drain()
        sent = [pydicom.dcmread(p) for p in spool.results.glob("*/*.dcm")]
        assert {one.StudyInstanceUID for one in sent} == {"1.2.0", "1.2.1", "1.2.2"} and len(sent) == 6
        assert archive.got == Counter({str(one.SOPInstanceUID): 1 for one in sent})
        assert not list(spool.outbox.iterdir()) and not list(spool.incoming.iterdir())
        push(studies, port)  # the same again: nothing is done or sent twice
        service.drain()
        assert set(archive.got.values()) == {1}
    server.shutdown()
    everything = "".join(str(p) for p in spool.folder.rglob("*"))
    everything += (
        "".join(p.read_text() for p in spool.folder.rglob("*.json*")) + (spool.month / "results.csv").read_text()
    )
    assert not any(secret in everything for secret in ("Zyxwv", "SECRET-7", "ACCESS-55", "19500101"))


def test_an_archive_that_is_away_gets_everything_later(studies, weights, tmp_path):
    spool, port = Spool(tmp_path / "spool", 0), free_port()
    for path in studies[:6]:
        spool.receive("1.2.0", path.stem, path.read_bytes())
    service = service_of(spool, weights, port, first_pause=0.1)
    service.drain()
    (entry,) = spool.outbox.iterdir()
    assert json.loads(entry.read_text())["tries"] == 1
    time.sleep(0.2)
    again = time.time()
    service.send()
    assert json.loads(entry.read_text())["tries"] == 2  # and the next pause is longer
    assert json.loads(entry.read_text())["next"] - again > 0.15
    with Archive(port) as archive:
        time.sleep(0.5)
        service_of(Spool(tmp_path / "spool", 0), weights, port).send()  # a new process knows what is queued
        assert sorted(archive.got.values()) == [1, 1]
    assert not list(spool.outbox.iterdir())


def test_what_arrived_before_a_break_is_not_sent_again(studies, weights, tmp_path):
    spool, sent = Spool(tmp_path / "spool", 0), []

    class Breaks:
        name = "breaks"

        def send(self, paths, arrived):
            for path in paths:
                if len(sent) == 1:
                    sent.append(None)
                    raise NotSent("breaks: gone")
                sent.append(path.name)
                arrived(path, str(pydicom.dcmread(path).SOPInstanceUID))
            return {}

    for path in studies[:6]:
        spool.receive("1.2.0", path.stem, path.read_bytes())
    service = Service(spool, weights, [Breaks()], {"device_name": "cpu"}, quiet_seconds=0, first_pause=0)
    service.drain()
    service.send()
    study = short_hash("1.2.0")
    assert sent == [f"{study}_seg.dcm", None, f"{study}_sr.dcm"]


def received(spool: Spool, paths, study: str = "1.2.0") -> str:
    for path in paths:
        spool.receive(study, path.stem, path.read_bytes())
    return short_hash(study)


def test_what_a_server_refuses_keeps_nothing_else_back(studies, weights, tmp_path):
    spool = Spool(tmp_path / "spool", 0)
    study = received(spool, studies[:6])
    with Archive(free_port(), without="1.2.840.10008.5.1.4.1.1.66.4") as archive:
        service = service_of(spool, weights, archive.port, first_pause=0)
        service.drain()
        for _ in range(6):
            service.send()
        assert list(archive.got.values()) == [1]  # the report, once
    assert not list(spool.outbox.iterdir())
    (refused,) = spool.known(study)["undeliverable"].values()
    ((name, why),) = refused.items()
    assert name.endswith(f"{study}_seg.dcm") and "does not accept Segmentation" in why


def test_a_host_that_is_not_known_is_one_that_is_away(studies, weights, tmp_path):
    spool = Spool(tmp_path / "spool", 0)
    received(spool, studies[:6])
    received(spool, studies[6:12], "1.2.1")
    gone = DimseDestination("PACS@no-such-host.invalid:104", "ICHSEG")
    service = Service(spool, weights, [gone], {"device_name": "cpu"}, quiet_seconds=0)
    service.drain()
    entries = [json.loads(p.read_text()) for p in spool.outbox.iterdir()]
    assert [e["tries"] for e in entries] == [1, 1] and all(e["next"] > time.time() for e in entries)


def test_what_a_dry_run_made_is_sent_by_the_next_real_one(studies, weights, tmp_path, caplog):
    caplog.set_level("INFO", "ichseg")
    spool = Spool(tmp_path / "spool", 0)
    received(spool, studies[:6])
    service_of(spool, weights).drain()
    made = list(spool.results.glob("*/*.dcm"))
    assert made and not spool.waiting() and not spool.due()
    with Archive(free_port()) as archive:
        for _ in range(2):
            service_of(spool, weights, archive.port).drain()
        assert len(archive.got) == len(made) and set(archive.got.values()) == {1}
    assert caplog.text.count("1 studies were segmented in a dry run; their results are sent now") == 1


def test_an_entry_that_was_queued_meanwhile_stays(tmp_path):
    spool = Spool(tmp_path / "spool", 0)
    (spool.studies / "a").mkdir()
    spool.finish("a", ["1.dcm"], {"a_seg.dcm": "1.1"}, "", ["PACS"])
    ((study, name, first),) = spool.due()
    spool.finish("a", ["2.dcm"], {"a_seg.dcm": "2.1"}, "", ["PACS"])
    spool.delivered(study, name, first)
    spool.postpone(study, name, first, 1e6)
    ((_, _, second),) = spool.due()
    assert second["made"] != first["made"]
    spool.delivered(study, name, second)
    assert not spool.due()


def test_a_file_that_is_gone_holds_up_no_other(studies, weights, tmp_path):
    spool = Spool(tmp_path / "spool", 0)
    received(spool, studies[:6])
    received(spool, studies[6:12], "1.2.1")
    with Archive(free_port()) as archive:
        service = service_of(spool, weights, archive.port)
        while service.step():
            pass
        first = sorted(spool.outbox.glob("*.json"))[0].stem.split("_")[0]
        (spool.month / f"{first}_sr.dcm").unlink()
        service.send()
        assert len(archive.got) == 2 and len(list(spool.outbox.iterdir())) == 1


def test_a_study_that_cannot_be_done_is_set_aside(studies, weights, tmp_path, monkeypatch):
    spool = Spool(tmp_path / "spool", 0)
    good, bad = received(spool, studies[:6]), received(spool, studies[6:12], "1.2.1")
    from ichseg.dicom import service as module

    def list_series(folders, *more):
        if any(folder.name == bad for folder in folders):
            raise IchsegError("odd")
        return original(folders, *more)

    original = module.list_series
    monkeypatch.setattr(module, "list_series", list_series)
    service_of(spool, weights).drain()
    assert spool.known(bad)["outcome"] == "failed: odd" and "mL" in spool.known(good)["outcome"]
    assert not spool.waiting()


def test_identifiers_of_a_sender_are_never_run(weights, tmp_path):
    """MONAI's configs run text that begins with a dollar sign."""
    spool, pwned = Spool(tmp_path / "spool", 0), tmp_path / "pwned"
    for path in save_series(tmp_path / "in", head((40, 48, 6)).astype(int), study="1.2.0"):
        made = pydicom.dcmread(path)
        made.SOPInstanceUID = f"$open({str(pwned)!r}, 'w').write({path.name!r})"
        made.save_as(path)
        spool.receive("1.2.0", path.stem, path.read_bytes())
    service_of(spool, weights).drain()
    assert "mL" in spool.known(short_hash("1.2.0"))["outcome"] and not pwned.exists()


def test_what_the_machine_could_not_do_is_tried_again(studies, weights, tmp_path, monkeypatch):
    from ichseg.dicom import service as module

    spool = Spool(tmp_path / "spool", 0)
    study = received(spool, studies[:6])

    def no_memory(*_):
        raise torch.OutOfMemoryError("out of memory")

    service = service_of(spool, weights, first_pause=0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "configured_runner", no_memory)
        assert service.step() == 1 and spool.waiting() == [study] and not service.failed
    service.drain()
    assert "mL" in spool.known(study)["outcome"] and not service.failed


class SmallPages:
    """A DICOMweb server that gives two studies at a time, whatever it is asked for, and cannot give one of them."""

    def __init__(self, knows_offsets: bool) -> None:
        self.knows_offsets = knows_offsets

    def search_for_studies(self, limit, offset, search_filters):
        start = offset if self.knows_offsets else 0
        return [{"0020000D": {"Value": [f"1.2.{n}"]}} for n in range(start, min(start + 2, 5))]

    def search_for_series(self, study):
        return [{"0020000E": {"Value": [f"{study}.5"]}, "00080060": {"Value": ["CT"]}}]

    def iter_series(self, study, series):
        if study == "1.2.1":
            raise OSError("500 Server Error")
        yield self.files[int(study.rsplit(".", 1)[1])]


@pytest.mark.parametrize(("knows_offsets", "found"), [(True, 5), (False, 2)])
def test_all_pages_of_a_server_are_read_and_failures_counted(studies, tmp_path, knows_offsets, found):
    from ichseg.dicom.web import Source

    web = SmallPages(knows_offsets)
    web.files = [pydicom.dcmread(studies[0])] * 5
    spool = Spool(tmp_path / "spool", 0)
    assert Source(web, "server").fetch(spool) == (found - 1, 1)
    assert len(list(spool.studies.iterdir())) == found - 1


def test_a_full_disk_is_waited_for(studies, weights, tmp_path, monkeypatch):
    import errno

    spool = Spool(tmp_path / "spool", 0)
    study = received(spool, studies[:6])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ichseg.dicom.listing.write_volume", full)
    service = service_of(spool, weights, first_pause=0)
    assert service.step() == 0 and spool.waiting() == [study]
    monkeypatch.undo()
    service.drain()
    assert "mL" in spool.known(study)["outcome"]


def test_a_full_disk_is_waited_for_one_by_one_too(studies, weights, tmp_path, monkeypatch):
    import errno

    from ichseg.dicom import service as module

    spool = Spool(tmp_path / "spool", 0)
    both = {received(spool, studies[:6]), received(spool, studies[6:12], "1.2.1")}
    original = module.list_series

    def list_series(folders, *more):
        if len(folders) > 1:
            raise IchsegError("odd")  # so that they are done one by one
        return original(folders, *more)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "list_series", list_series)
    with monkeypatch.context() as patch:
        patch.setattr("ichseg.dicom.listing.write_volume", full)
        service = service_of(spool, weights, first_pause=0)
        assert service.step() == 0 and set(spool.waiting()) == both
    service.drain()
    assert all("mL" in spool.known(study)["outcome"] for study in both)


def test_two_processes_do_not_share_a_spool(tmp_path, capsys):
    with Spool(tmp_path / "spool", 0).opened():
        assert main(["listen", str(tmp_path / "spool"), "--dry-run", "--device", "cpu"]) == 2
    assert "another process works in this folder" in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["received", "claimed", "segmented", "half moved"])
def test_a_killed_process_loses_nothing(studies, weights, tmp_path, moment, monkeypatch):
    """What a process leaves behind when it stops at any moment, the next one finishes."""
    spool = Spool(tmp_path / "spool", 0)
    for path in studies[:6]:
        spool.receive("1.2.0", path.stem, path.read_bytes())
    if moment == "half moved":
        target = spool.studies / short_hash("1.2.0")
        target.mkdir()
        for file in sorted(spool.incoming.rglob("*.dcm"))[:3]:
            file.rename(target / file.name)
    if moment in ("claimed", "segmented"):
        spool.claim(0)
    if moment == "segmented":
        monkeypatch.setattr(Spool, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            service_of(spool, weights).step()
        monkeypatch.undo()
    with Archive(free_port()) as archive:
        service_of(Spool(tmp_path / "spool", 0), weights, archive.port).drain()
        assert sorted(archive.got.values()) == [1, 1]
    mask = next(spool.results.glob("*/*_ich.nii.gz"))
    from ichseg.io import read_mask

    assert read_mask(mask)[0].shape[2] == 6


def test_a_late_image_is_taken_in(studies, weights, tmp_path):
    spool = Spool(tmp_path / "spool", 0)
    for path in studies[:5]:
        spool.receive("1.2.0", path.stem, path.read_bytes())
    with Archive(free_port()) as archive:
        service = service_of(spool, weights, archive.port)
        service.drain()
        spool.receive("1.2.0", studies[5].stem, studies[5].read_bytes())
        service.drain()
        # Another mask is another object, and so is a report of more images.
        assert len(archive.got) == 4 and set(archive.got.values()) == {1}


def test_images_are_forgotten_after_a_while(studies, weights, tmp_path):
    spool = Spool(tmp_path / "spool", 0)
    for path in studies[:6]:
        spool.receive("1.2.0", path.stem, path.read_bytes())
    service_of(spool, weights, keep_hours=1.0).drain()
    assert len(list(spool.studies.rglob("*.dcm"))) == 6
    service_of(spool, weights, keep_hours=0.0).drain()
    assert not list(spool.studies.rglob("*.dcm")) and not list(spool.results.rglob("scans/*.nii.gz"))
    assert len(list(spool.results.glob("*/*.dcm"))) == 2


def test_a_full_disk_stops_accepting(studies, weights, tmp_path):
    free = shutil.disk_usage(tmp_path).free / 2**30
    spool = Spool(tmp_path / "spool", free + 100)
    server, port = listener_of(spool)
    assert push(studies[:2], port) == [0xA700] * 2
    assert not list(spool.incoming.rglob("*"))
    with pytest.raises(DiskFull, match="GiB free; not accepted"):
        spool.receive("1", "2", b"")
    server.shutdown()


def test_only_those_allowed_may_send(studies, tmp_path):
    spool = Spool(tmp_path / "spool", 0)
    server, port = listener_of(spool, allowed=("SCANNER@10.9.8.7", "CT2"))
    assert push(studies[:1], port, own="OTHER") == []
    assert push(studies[:1], port, aet="WRONG", own="CT2") == []
    assert push(studies[:1], port, own="SCANNER") == []  # the title is right, the host is not
    assert not list(spool.incoming.iterdir())
    assert push(studies[:1], port, own="CT2") == [0]
    server.shutdown()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls_in_both_directions(studies, weights, tmp_path):
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{tmp_path}/k.pem",
             "-out", f"{tmp_path}/c.pem"]  # fmt: skip
    subprocess.run(words, check=True, capture_output=True)
    security = Security(tmp_path / "c.pem", tmp_path / "k.pem", tmp_path / "c.pem")
    spool = Spool(tmp_path / "spool", 0)
    server, port = listener_of(spool, security=security)
    assert push(studies[:1], port) == []  # in the clear
    context = security.context(server=False)
    assert push(studies[:1], port, tls_args=(context, "127.0.0.1")) == [0]
    with socket.create_connection(("127.0.0.1", port)):  # a caller that says nothing keeps no one out
        DimseDestination(f"ICHSEG@127.0.0.1:{port}", "ME", security).echo()
    unknown = Security(tmp_path / "c.pem", tmp_path / "k.pem")  # its certificate is signed by nobody we know
    with pytest.raises(NotSent, match=r"not accepted \(self-signed certificate\); name the CA .*--tls-authority"):
        DimseDestination(f"ICHSEG@127.0.0.1:{port}", "ME", unknown).echo()
    server.shutdown()
    with Archive(free_port()) as archive, pytest.raises(NotSent, match="no TLS connection"):
        DimseDestination(f"PACS@127.0.0.1:{archive.port}", "ME", security).echo()
    with pytest.raises(NotSent, match="cannot be reached"):
        DimseDestination(f"PACS@127.0.0.1:{free_port()}", "ME", security).echo()
    with pytest.raises(IchsegError, match=r"TLS: .*missing\.pem"):
        Security(tmp_path / "missing.pem", tmp_path / "k.pem").context(server=True)


def test_many_at_once(studies, weights, tmp_path):
    """Twelve callers, each with a study of its own."""
    spool = Spool(tmp_path / "spool", 0)
    server, port = listener_of(spool, most_associations=30)
    volume = head((16, 16, 5)).astype(int)
    files = [
        save_series(tmp_path / f"s{n}", volume, study=f"9.{n}", series=f"9.{n}.1", shuffle=False) for n in range(12)
    ]
    results: dict[int, list[int]] = {}
    callers = [threading.Thread(target=lambda n=n: results.update({n: push(files[n], port)})) for n in range(12)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    assert all(results[n] == [0] * 5 for n in range(12))
    with Archive(free_port()) as archive:
        service_of(spool, weights, archive.port).drain()
        assert len(archive.got) == len(list(spool.results.glob("*/*.dcm"))) and set(archive.got.values()) == {1}
        reported = {pydicom.dcmread(p).StudyInstanceUID for p in spool.results.glob("*/*_sr.dcm")}
        assert reported == {f"9.{n}" for n in range(12)}
    server.shutdown()


def test_the_command(studies, weights, tmp_path, capsys):
    port = free_port()
    with Archive(free_port()) as archive:
        words = ["ichseg", "listen", f"{tmp_path}/spool", "--port", str(port), "--quiet", "0.5",
                 "--send-to", f"PACS@127.0.0.1:{archive.port}", "--weights", str(weights), "--device", "cpu",
                 "--min-free", "0", "--allow", "SCANNER"]  # fmt: skip
        told = tmp_path / "out", tmp_path / "err"
        process = start_module(words, out=told[0], err=told[1])
        try:
            until = time.monotonic() + 120
            while time.monotonic() < until and process.is_alive():
                if told[0].is_file() and "listening as ICHSEG" in told[0].read_text():
                    break
                time.sleep(0.1)
            assert push(studies[:6], port) == [0] * 6
            for _ in range(300):
                if len(archive.got) == 2:
                    break
                time.sleep(0.2)
        finally:
            process.terminate()
        process.join(60)
        said = "".join(file.read_text() for file in told)
        assert process.exitcode == 0 and "stopped" in said and "2 objects sent to PACS@127.0.0.1" in said, said
        assert len(archive.got) == 2 and not any(secret in said for secret in ("Zyxwv", "SECRET", "warning"))
    _echo(DimseDestination(f"PACS@127.0.0.1:{archive.port}", "ME"))  # which has gone
    told = capsys.readouterr().out
    assert f"PACS@127.0.0.1:{archive.port}: cannot be reached; results that cannot be sent are kept" in told
    assert main(["listen", str(tmp_path / "spool")]) == 2
    assert "--send-to AET@HOST:PORT, or use --dry-run" in capsys.readouterr().err
    assert main(["listen", str(tmp_path / "spool"), "--send-to", "nowhere"]) == 2
    assert "expected AET@HOST:PORT" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = str(taken.getsockname()[1])
        assert main(["listen", str(tmp_path / "spool"), "--dry-run", "--port", busy, "--weights", str(weights)]) == 2
    assert f"--port {busy}: " in capsys.readouterr().err
    words = ["listen", str(tmp_path / "spool"), "--dry-run", "--weights", str(weights), "--port"]
    assert main([*words, "99999"]) == 2
    assert "--port 99999: expected 0 to 65535" in capsys.readouterr().err
    words[1] = str(weights)
    assert main([*words, "0"]) == 2
    assert f"{weights}: cannot be used as a spool" in capsys.readouterr().err
