"""The Python of README and docs runs, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ichseg.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = [code for page in PAGES for code in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]


@pytest.mark.parametrize("code", CODE)
def test_python_runs(code, tmp_path, monkeypatch):
    if "STUDY" in code:
        pytest.importorskip("pydicom")
        from broken_files import head
        from dicom_files import save_series

        save_series(tmp_path / "STUDY", head().astype(int))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_every_command_named_has_help(capsys):
    named = set(re.findall(r"^ichseg ([a-z-]+)", README, re.MULTILINE))
    assert {
        "segment",
        "prepare",
        "train-classifier",
        "pseudo-label",
        "train-segmenter",
        "evaluate",
        "experiment",
    } <= named
    for command in [*sorted(named), "demo"]:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert "example" in capsys.readouterr().out


def test_links_lead_somewhere():
    for file in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", file.read_text(encoding="utf-8")):
            assert target.startswith("http") or (file.parent / target).exists(), target
