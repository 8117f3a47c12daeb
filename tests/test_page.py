"""The report: one file that says everything, survives evil names, and opens in a browser without network."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
from broken_files import AFFINE, head, image
from PIL import Image

from ichseg.cli import main
from ichseg.io import spacing_mm
from ichseg.report import write_report
from ichseg.report.case import case_pictures

EVIL = "<img src=x onerror=document.title=1>&'"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    scans = folder / "scans"
    scans.mkdir()
    image(head(), AFFINE).to_filename(scans / "good.nii.gz")
    upside = AFFINE @ np.diag([1, 1, -1, 1])
    upside[2, 3] = 30
    array = head()
    array[..., 5] = head()[..., 0]
    array[30:36, 20:26, 1] = 64
    image(array, upside).to_filename(scans / f"{EVIL}.nii.gz")
    image(head().clip(0, 80).astype(np.uint8), AFFINE).to_filename(scans / "=8 bit.nii.gz")
    (scans / "broken.nii.gz").write_bytes(b"</script><script>document.title=2</script>")
    assert main(["segment", str(scans), str(folder / "out"), "--device", "cpu", "--size", "64"]) == 1
    return folder / "out"


def data(page, name):
    found = re.search(rf'<script type="application/json" id="{name}" class="\w*">(.*?)</script>', page)
    return json.loads(found[1]) if found else None


def test_the_page_is_whole_and_harmless(out):
    page = (out / "report.html").read_text(encoding="utf-8")
    table = page[page.index("<tbody>") : page.index("</tbody>")]
    assert table.count("<tr") == 4 and "&lt;img src=x" in table and "<img" not in table
    assert "Failed: no mask (1)" in page and "Flagged: review before use (1)" in page
    assert page.index("Failed: no mask") < page.index("Flagged: review") < page.index("All scans")
    assert "connect-src data: blob:" in page and "default-src 'none'" in page
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?https?:", page.partition("<script>")[0])
    abouts = [data(page, f"case-{n}") for n in range(4)]
    assert sorted(about["case"] for about in abouts if about) == sorted(["good", EVIL, "=8 bit"])
    first = re.findall(r'id="case-(\d)"', page)[0]
    assert data(page, f"case-{first}")["status"] == "flagged"  # what needs a look comes first


def test_no_text_leaves_its_element(out, tmp_path):
    """A folder named ``<`` makes a case of ``</script>``."""
    copy = shutil.copytree(out, tmp_path / "out")
    evil = "</script><script>document.title=3</script>"
    rows = [json.loads(line) for line in (copy / "results.jsonl").read_text().splitlines()]
    row = {**next(row for row in rows if row["status"] == "ok"), "case": evil, "message": evil}
    kept = copy / "report_cases" / f"{evil}.json"
    kept.parent.mkdir(parents=True)
    shutil.copy(copy / "report_cases" / "good.json", kept)
    page = write_report(copy, [row], json.loads((copy / "report.json").read_text())).read_text(encoding="utf-8")
    assert data(page, "case-0")["case"] == evil and evil not in page


def test_a_name_like_a_place_of_the_page(out, tmp_path):
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    rows[0] = {**rows[0], "case": "{{ rows }}"}
    copy = shutil.copytree(out, tmp_path / "out")
    page = write_report(copy, rows, json.loads((out / "report.json").read_text())).read_text(encoding="utf-8")
    assert page.count("<tbody>") == 1 and page.count("<tr data-open") == 3 and "{{ rows }}" in page


def test_the_viewers_volume_is_the_scan(out):
    page = (out / "report.html").read_text(encoding="utf-8")
    number = next(n for n in range(4) if (data(page, f"case-{n}") or {}).get("case") == EVIL)
    volume = data(page, f"volume-{number}")
    wide, high, count = volume["shape"]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(volume["jpeg"]))))
    assert (wide, high, count) == (64, 64, 6) and volume["reversed"] is True
    tiles = [sheet[row * high :, column * wide :][:high, :wide].T for row, column in
             (divmod(z, volume["columns"]) for z in range(count))]  # fmt: skip
    hounsfield = np.stack(tiles, -1) * volume["slope"] + volume["offset"]
    affine, scan = np.array(volume["affine"]), nib.load(out.parent / "scans" / f"{EVIL}.nii.gz")
    # The same place of the patient has the same value in both.
    stored = np.asarray(scan.dataobj).clip(-15, 115)
    for place in ((33, 23, 1), (24, 24, 3), (36, 24, 4)):
        at = np.rint(np.linalg.inv(affine) @ scan.affine @ [*place, 1]).astype(int)[:3]
        assert hounsfield[tuple(at)] == pytest.approx(stored[place], abs=12), place
    assert volume["spacing"] == pytest.approx(spacing_mm(affine), abs=1e-3)
    mask = base64.b64decode(volume["mask"])
    assert mask == (out / f"{EVIL}_ich.nii.gz").read_bytes()


def test_numbers_of_slices_are_those_stored():
    array = np.zeros((32, 32, 6), np.uint8)
    mask = np.zeros((32, 32, 6))
    mask[4:9, 4:9, 1] = 1
    for flip, reversed_ in ((1, False), (-1, True)):
        affine = np.diag([-1.0, -1.0, 5.0 * flip, 1.0])
        upward = np.diag([-1.0, -1.0, 5.0, 1.0])
        upward[2, 3] = 0 if flip > 0 else -25  # the same place in space
        kept = case_pictures(mask, affine, array, upward, -15, 130)["volume"]
        assert kept["start"] == 2 and kept["reversed"] is reversed_


def test_a_page_that_would_be_too_large_leaves_volumes_out(out, tmp_path):
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    facts = json.loads((out / "report.json").read_text())
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    page = write_report(copy, rows, facts, limit_mb=0).read_text(encoding="utf-8")
    assert page.count('id="picture-') == 3 and 'id="volume-' not in page
    (copy / "report_cases" / "good.json").write_text("{")
    page = write_report(copy, rows, facts).read_text(encoding="utf-8")
    assert page.count('id="picture-') == 2 and page.count("<tr data-open") == 3


def test_facts_of_the_run(out):
    facts = json.loads((out / "report.json").read_text())
    assert facts["scans"] == {"failed": 1, "flagged": 1, "ok": 2, "skipped": 0} and facts["device"] == "cpu"
    assert len(facts["weights"]["model.pt"]) == 64 and '{"HeadCrop": {"size": 64' in json.dumps(facts["settings"])
    assert {"torch", "monai", "nibabel"} <= set(facts["packages"]) and facts["seconds"] > 0


def test_the_page_says_what_is_older(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "out")
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    facts = json.loads((out / "report.json").read_text())
    for more, said in (
        ({}, f" {facts['seconds']} s on cpu &"),
        ({"reused": 3}, f"last run: {facts['seconds']} s on cpu; 3 scans from earlier runs"),
        ({"parts": 2, "reused": 1}, f"last run: 2 parts, {facts['seconds']} s in total on cpu; 1 scan from"),
    ):
        assert said in write_report(copy, rows, {**facts, **more}).read_text(encoding="utf-8")


def test_no_report_if_none_is_wanted(out, tmp_path):
    words = ["segment", str(out.parent / "scans" / "good.nii.gz"), str(tmp_path), "--device", "cpu", "--size", "64"]
    assert main([*words, "--no-report"]) == 0
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "report_cases").exists()
    assert main(words) == 0 and (tmp_path / "report.html").is_file()
    assert main([*words, "--no-report"]) == 0 and not (tmp_path / "report.html").exists()  # not that of an earlier run
    assert (tmp_path / "report.json").is_file()


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium here")
@pytest.mark.parametrize("case", ["good", EVIL])
def test_it_opens_in_a_browser(out, tmp_path, case):
    from urllib.parse import quote

    browser = next(filter(None, map(shutil.which, BROWSERS)))
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic",
             "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={tmp_path}", "--virtual-time-budget=120000"]  # fmt: skip
    address = f"file://{quote(str(out))}/report.html#view={quote(case)}"
    done = subprocess.run([browser, *words, "--dump-dom", address], capture_output=True, text=True, check=False)
    seen = re.sub(r"<script.*?</script>", "", done.stdout, flags=re.S)
    assert "<title>Intracranial hemorrhage report</title>" in seen  # no name has run as a script
    ready = re.search(r'id="viewer"[^>]*data-ready="([^"]*)"', seen)
    assert ready, done.stderr[-2000:]
    import html

    assert html.unescape(ready[1]) == case
    assert re.search(r'id="viewer-number">\d of 6<', seen) and seen.count('class="card"') == 3
