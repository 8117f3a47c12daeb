"""The Python of README and docs runs, and its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ichseg.cli import build_parser, main

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


def commands():
    """Every line of the pages' shell blocks that starts ichseg, without its comment."""
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("ichseg ") and "$" not in line:
                    yield pytest.param(line, id=f"{page.stem}: {line[:60]}")


@pytest.mark.parametrize("line", commands())
def test_every_command_has_the_options_it_is_shown_with(line):
    words = shlex.split(line, comments=True)[1:]
    assert build_parser().parse_args(words).command == words[0]


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


def test_every_config_of_the_bundles_table_is_there():
    rows = re.findall(r"^\| \[(\w+)\]\(bundles/\w+/docs/README.md\) \| ([^|]+) \|", README, re.MULTILINE)
    assert len(rows) == 3
    for bundle, configs in rows:
        named = set(re.split(r"[,;]\s*", configs.strip()))
        assert named == {file.stem for file in (ROOT / "bundles" / bundle / "configs").glob("*.yaml")}, bundle


def test_links_lead_somewhere():
    for file in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", file.read_text(encoding="utf-8")):
            assert target.startswith("http") or (file.parent / target).exists(), target
