"""A real PACS: Orthanc on loopback, over the DICOM network and DICOMweb, killed and started again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
pytest.importorskip("dicomweb_client")
if shutil.which("Orthanc") is None:
    pytest.skip("Orthanc is not installed", allow_module_level=True)
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
if not PLUGIN.exists():
    pytest.skip("Orthanc's DICOMweb plugin is not installed", allow_module_level=True)

from broken_files import head  # noqa: E402
from conftest import segmenter_file  # noqa: E402
from dicom_files import save_series  # noqa: E402
from test_dicom_network import free_port, push  # noqa: E402

from ichseg.cli import main  # noqa: E402
from ichseg.dicom.network import DimseDestination, Listener  # noqa: E402
from ichseg.dicom.service import Service  # noqa: E402
from ichseg.dicom.spool import Spool  # noqa: E402
from ichseg.errors import IchsegError  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return segmenter_file(tmp_path_factory.mktemp("weights") / "model.pt", threshold=0.0)


class Orthanc:
    """One server with a storage that outlives it."""

    def __init__(self, folder: Path, **more) -> None:
        self.folder, self.http, self.dicom, self.process = folder, free_port(), free_port(), None
        folder.mkdir()
        (folder / "orthanc.json").write_text(json.dumps({
            "Name": "test", "StorageDirectory": str(folder), "IndexDirectory": str(folder), "HttpPort": self.http,
            "DicomPort": self.dicom, "DicomAet": "ORTHANC", "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "DicomCheckCalledAet": False, "DicomAlwaysAllowStore": True,
            "Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, **more,
        }))  # fmt: skip

    def start(self) -> Orthanc:
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(["Orthanc", str(self.folder / "orthanc.json")], stdout=log, stderr=log)
        for _ in range(150):
            try:
                self.ask("system")
                return self
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def ask(self, path: str):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/{path}", timeout=10) as answer:
            return json.load(answer)

    def modalities(self) -> list[str]:
        """Of every series."""
        return sorted(one["MainDicomTags"]["Modality"] for one in self.ask("series?expand"))

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.http}/dicom-web"


@pytest.fixture
def orthanc(tmp_path):
    server = Orthanc(tmp_path / "orthanc").start()
    yield server
    server.kill()


@pytest.fixture
def files(tmp_path) -> list[Path]:
    volume = head((40, 48, 6)).astype(int)
    return [
        path
        for n in range(2)
        for path in save_series(tmp_path / f"s{n}", volume + n, study=f"1.5.{n}", series=f"1.5.{n}.5", shuffle=False)
    ]


def test_studies_of_a_server_get_their_segmentations(orthanc, files, weights, tmp_path, capsys, monkeypatch):
    def fail(self, studies):
        raise IchsegError("no network")

    assert push(files, orthanc.dicom, aet="ORTHANC") == [0] * 12
    words = ["pacs", str(tmp_path / "spool"), "--dicomweb", orthanc.web, "--weights", str(weights), "--device", "cpu",
             "--min-free", "0"]  # fmt: skip
    assert main([*words, "--dry-run", "--query", "StudyInstanceUID=1.5.1"]) == 0
    assert orthanc.modalities() == ["CT", "CT"] and "1 studies fetched" in capsys.readouterr().out
    monkeypatch.setattr(Service, "_segment", fail)
    assert main([*words, "--query", "StudyInstanceUID=1.5.0"]) == 1
    assert "; 1 could not be segmented, see results.csv" in capsys.readouterr().out
    monkeypatch.undo()
    spool = tmp_path / "again"
    words[1] = str(spool)
    assert main(words) == 0
    assert orthanc.modalities() == ["CT", "CT", "SEG", "SEG", "SR", "SR"]
    count = orthanc.ask("statistics")["CountInstances"]
    assert main(words) == 0 and "0 studies fetched" in capsys.readouterr().out.splitlines()[-1]
    assert orthanc.ask("statistics")["CountInstances"] == count == 16
    more = pydicom.dcmread(files[-1])  # a study that grows is fetched again
    more.SOPInstanceUID += ".7"
    more.file_meta.MediaStorageSOPInstanceUID = more.SOPInstanceUID
    more.InstanceNumber, more.ImagePositionPatient = 7, [*more.ImagePositionPatient[:2], 30]
    more.save_as(tmp_path / "more.dcm")
    assert push([tmp_path / "more.dcm"], orthanc.dicom, aet="ORTHANC") == [0]
    assert main(words) == 0 and "1 studies fetched" in capsys.readouterr().out.splitlines()[-1]
    assert orthanc.ask("statistics")["CountInstances"] == 19
    for one in orthanc.ask("studies?expand"):
        assert len(one["Series"]) == 3  # the results lie in the study they belong to
    orthanc.kill()
    assert main(words) == 2
    assert "127.0.0.1" in capsys.readouterr().err
    assert main([*words, "--query", "nothing"]) == 2


def test_the_pages_lua_script_sends_new_series_and_results_come_back(files, weights, tmp_path):
    page = (Path(__file__).resolve().parents[1] / "docs" / "orthanc.md").read_text()
    (script,), (shown,) = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("lua", "json"))
    (tmp_path / "send.lua").write_text(script)
    spool = Spool(tmp_path / "spool", 0)
    listener = Listener(spool, "ICHSEG", "127.0.0.1", 0).start()
    modalities = json.loads(shown)["DicomModalities"]
    modalities["ichseg"]["Port"] = listener.server_address[1]
    server = Orthanc(
        tmp_path / "orthanc", DicomModalities=modalities, LuaScripts=[str(tmp_path / "send.lua")], StableAge=1
    ).start()
    try:
        destination = DimseDestination(f"ORTHANC@127.0.0.1:{server.dicom}", "ICHSEG")
        service = Service(spool, weights, [destination], {"device_name": "cpu"}, quiet_seconds=1, first_pause=0.01)
        assert push(files, server.dicom, aet="ORTHANC") == [0] * 12
        until = time.monotonic() + 60
        while len(server.modalities()) < 6 and time.monotonic() < until:
            time.sleep(1)
            service.drain()
        time.sleep(3)  # results that have become stable are not sent back to us
        service.drain()
        assert server.modalities() == ["CT", "CT", "SEG", "SEG", "SR", "SR"]
        assert server.ask("statistics")["CountInstances"] == 16
    finally:
        listener.shutdown()
        server.kill()


def test_a_server_that_is_killed_gets_everything(orthanc, files, weights, tmp_path):
    spool = Spool(tmp_path / "spool", 0)
    server = Listener(spool, "ICHSEG", "127.0.0.1", 0).start()
    assert push(files, server.server_address[1]) == [0] * 12
    destination = DimseDestination(f"ORTHANC@127.0.0.1:{orthanc.dicom}", "ICHSEG")
    destination.echo()
    service = Service(spool, weights, [destination], {"device_name": "cpu"}, quiet_seconds=0, first_pause=0.01)
    orthanc.kill()
    service.drain()
    assert len(list(spool.outbox.iterdir())) == 2
    orthanc.start()
    time.sleep(0.1)
    service.send()
    assert orthanc.modalities() == ["SEG", "SEG", "SR", "SR"] and not list(spool.outbox.iterdir())
    server.shutdown()
