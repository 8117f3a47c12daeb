"""The report: one file that says everything, survives evil names, and opens in a browser without network."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from urllib.parse import quote

import browser as browsers
import nibabel as nib
import numpy as np
import pytest
from broken_files import AFFINE, head, image
from conftest import as_usual
from PIL import Image

from ichseg.cli import main
from ichseg.io import spacing_mm, write_volume
from ichseg.report import write_report
from ichseg.report.case import case_pictures
from ichseg.synthetic.phantom import phantom_scan

EVIL = "<img src=x onerror=document.title=1>&'"


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
    with pytest.MonkeyPatch.context() as patch:
        as_usual(patch)
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
    assert page.index("Failed: no mask") < page.index("Flagged: review") < page.index("<h2>Scans</h2>")
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


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser, or a skip where none is, or where it cannot show volumes: that is not the page's fault."""
    if browsers.found() is None:
        pytest.skip("there is no Chromium")
    with browsers.Browser(tmp_path_factory.mktemp("profile")) as started:
        started.open("about:blank")
        if not started.value("!!document.createElement('canvas').getContext('webgl2')"):
            pytest.skip("Chromium has no WebGL 2")
        yield started


def text_of(browser, name):
    return browser.value(f"document.getElementById('{name}').textContent")


def view(browser, folder, case):
    """Open the page and a scan in the viewer; wait until it is shown."""
    browser.open(f"file://{quote(str(folder / 'report.html'))}#view={quote(case)}")
    assert browser.until("document.getElementById('viewer')?.dataset.ready") == case


@pytest.mark.parametrize("case", ["good", EVIL])
def test_it_opens_in_a_browser(browser, out, case):
    view(browser, out, case)
    assert browser.value("document.title") == "Intracranial hemorrhage report"  # no name has run as a script
    assert re.fullmatch(r"\d of 6", text_of(browser, "viewer-number"))
    assert browser.value("document.querySelectorAll('.card').length") == 3


def test_keys_change_slices_and_hide_the_mask(browser, out):
    view(browser, out, "good")
    start = int(text_of(browser, "viewer-number").split()[0])
    place = start
    for key, by in (("ArrowUp", 1), ("ArrowRight", 1), ("ArrowDown", -1), ("ArrowLeft", -1), ("ArrowDown", -1)):
        browser.press(key)
        place = min(6, max(1, place + by))
        assert text_of(browser, "viewer-number") == f"{place} of 6"
    modes = []
    for key in ("m", "M"):
        browser.press(key)
        modes.append(browser.value("document.getElementById('viewer-mode').value"))
    assert modes == ["hidden", "outline"]
    browser.press("Escape")
    assert browser.value("document.getElementById('viewer').hidden") is True


LAST = 0.95  # in the last slice of a row, as a share of its width


def test_a_thumbnail_opens_its_slice(browser, out):
    browser.open(f"file://{quote(str(out / 'report.html'))}#scan=good")
    page = (out / "report.html").read_text(encoding="utf-8")
    number = next(n for n in range(4) if (data(page, f"case-{n}") or {}).get("case") == "good")
    numbers = data(page, f"picture-{number}")["numbers"]
    # Cards above it are still being filled, and move it: a click counts once its place is that of two frames.
    box = json.loads(browser.until(f"""(async () => {{
        const frame = () => new Promise(requestAnimationFrame);
        const card = [...document.querySelectorAll('.card')].find((one) => one.dataset.name === 'good');
        const image = card && card.querySelector('img.opens');
        if (document.readyState !== 'complete' || !image || !image.complete) return '';
        image.scrollIntoView({{ block: 'center' }});
        await frame();
        const before = image.getBoundingClientRect();
        await frame();
        await frame();
        const {{ left, top, width, height }} = image.getBoundingClientRect();
        const [x, y] = [left + {LAST} * width, top + height / 2];
        if (!width || before.top !== top || document.elementFromPoint(x, y) !== image) return '';
        return JSON.stringify([x, y]);
    }})()"""))  # fmt: skip
    browser.click(*box)
    assert browser.until("document.getElementById('viewer').dataset.ready") == "good"
    assert text_of(browser, "viewer-number") == f"{numbers[-1]} of 6"


HIGH = 0.45  # where the lesion lies in the picture


@pytest.mark.parametrize("corner", [False, True])
def test_the_viewer_tells_left_from_right(browser, tmp_path, corner):
    """Wherever the origin lies: the lesion is on one side of the patient, and so says a click on it."""
    made = phantom_scan(seed=2, size=128, slices=12)
    affine = made.affine.copy()
    if corner:
        affine[:3, 3] = 0
    write_volume(tmp_path / "scans" / "p.nii.gz", made.image, affine)
    assert main(["segment", str(tmp_path / "scans"), str(tmp_path / "masks"), "--device", "cpu"]) == 0
    row = json.loads((tmp_path / "masks" / "results.jsonl").read_text())
    assert row["side"] in ("left", "right") and row["lesions"]
    view(browser, tmp_path / "masks", "p")
    canvas = "JSON.stringify(document.getElementById('viewer-canvas').getBoundingClientRect())"
    box = json.loads(browser.value(canvas))
    told = []
    for n in range(1, 40, 2):  # from left to right: the patient's right is on the left of the picture
        browser.click(box["left"] + box["width"] * n / 40, box["top"] + box["height"] * HIGH)
        told.append(text_of(browser, "viewer-text"))
    form = r"slice (\d+), column (\d+), row (\d+), (\d+) mm (left|right) of the midline: (.*)"
    told = [found for one in told if (found := re.fullmatch(form, one))]
    assert len(told) > 10
    sides = [one[5] for one in told]
    assert sides[0] == "right" and sides[-1] == "left" and sides == sorted(sides, reverse=True)
    mask = np.asarray(nib.load(tmp_path / "masks" / "p_ich.nii.gz").dataobj)
    for one in told:  # what stands there is what the file holds there
        number, column, line = (int(one[n]) - 1 for n in (1, 2, 3))
        inside = "in the mask" in one[6]
        around = mask[max(0, column - 3) : column + 4, max(0, line - 3) : line + 4, number]
        assert around.any() if inside else not around.all()
        assert not inside or one[5] == row["side"]
    assert any("in the mask" in one[6] for one in told)


def test_it_prints_with_its_pictures(browser, out):
    browser.open(f"file://{quote(str(out / 'report.html'))}")
    browser.until("document.querySelectorAll('.card').length === 3")
    content = base64.b64decode(browser.call("Page.printToPDF")["data"])
    assert content.startswith(b"%PDF") and content.count(b"/Subtype /Image") + content.count(b"/Subtype/Image") >= 3


def test_many_scans_are_on_pages(out, tmp_path, monkeypatch):
    monkeypatch.setattr("ichseg.report.page.PAGE_SCANS", 2)
    copy = shutil.copytree(out, tmp_path / "out")
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    facts = json.loads((out / "report.json").read_text())
    (copy / "report-9.html").write_text("an earlier run's")
    write_report(copy, rows, facts)
    assert sorted(p.name for p in copy.glob("report*.html")) == ["report-2.html", "report.html"]
    first, second = ((copy / name).read_text(encoding="utf-8") for name in ("report.html", "report-2.html"))
    assert first.count('id="picture-') == 2 and second.count('id="picture-') == 1
    assert first.count("<tr") - 1 == 4 and second.count("<tr") - 1 == 1
    assert first.count('data-page="report-2.html"') == 1 and '<a href="report-2.html">' in first
    assert '<a href="report.html">' in second and "Flagged: review" in first and "Flagged: review" not in second
    write_report(copy, rows[:2], facts)
    assert [p.name for p in copy.glob("report*.html")] == ["report.html"]


def test_an_archive_shows_what_is_most_worth_looking_at(out, tmp_path, monkeypatch):
    copy = shutil.copytree(out, tmp_path / "out")
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    (failed,) = (row for row in rows if row["status"] == "failed")
    rows += [{**failed, "case": f"more_{n}", "file": f"{n}.nii.gz", "message": f"{n}.nii.gz: torn"} for n in range(3)]
    for name, limit in (("LISTED", 5), ("PICTURED", 1), ("NAMED", 2)):
        monkeypatch.setattr(f"ichseg.report.survey.{name}", limit)
    page = write_report(copy, rows, json.loads((out / "report.json").read_text())).read_text(encoding="utf-8")
    assert page.count("<tr") - 1 == 5 and "2 more are in results.csv" in page
    assert page.count('id="picture-') == page.count("<tr data-open") == 1, "what has no pictures does not open"
    assert "Only the most important scans have images; 2 have none." in page
    assert "Failed: no mask (4)" in page and "and 1 more</b>: torn" in page, "all are counted, some are named"


def test_notes_are_no_reason_to_look(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "out")
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if row["status"] == "flagged":
            row["message"] += "; note: clipped"
        elif row["status"] == "ok":
            row["message"] = "note: clipped"
    page = write_report(copy, rows, json.loads((out / "report.json").read_text())).read_text(encoding="utf-8")
    attention = page[page.index("Flagged: review") : page.index("<h2>Scans</h2>")]
    assert "8-bit" in attention and "note:" not in attention and page.count("note: clipped") >= 3


def test_a_gallery_names_scan_and_slice(tmp_path, monkeypatch):
    from ichseg.report import gallery

    named = []
    monkeypatch.setattr(gallery, "labeled", lambda picture, text: named.append(text) or picture)
    made = phantom_scan(seed=2, size=64, slices=6)
    write_volume(tmp_path / "head_7.nii.gz", made.image, made.affine)
    write_volume(tmp_path / "mask.nii.gz", (made.label > 0).astype(np.uint8), made.affine)
    judged = [
        gallery.Judged(str(tmp_path / "head_7.nii.gz"), str(tmp_path / "mask.nii.gz"), None, n, n > 2, n)
        for n in (2, 4)
    ]
    gallery.slice_gallery(judged, tmp_path / "gallery.png")
    assert sorted(named) == ["head_7, slice 3", "head_7, slice 5"] and (tmp_path / "gallery.png").is_file()


def test_long_labels_are_cut_at_the_front():
    from ichseg.report.montage import labeled

    short = np.asarray(labeled(Image.new("RGB", (64, 64)), "x" * 200))
    assert short.shape == (64, 64, 3) and short[:20].any() and not short[30:].any()
