"""The README's Python runs, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ichseg.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_runs(code):
    exec(compile(code, "README.md", "exec"), {})


def test_every_command_named_has_help(capsys):
    named = set(re.findall(r"^ichseg ([a-z-]+)", README, re.MULTILINE))
    assert {"segment", "prepare", "train-classifier", "pseudo-label", "train-segmenter"} <= named
    for command in [*sorted(named), "demo", "evaluate"]:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert "example" in capsys.readouterr().out


def test_links_lead_somewhere():
    for file in [ROOT / "README.md", ROOT / "docs" / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", file.read_text(encoding="utf-8")):
            assert target.startswith("http") or (file.parent / target).exists(), target
