"""The Python of README and docs runs, and its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from ichseg.check.targets import doubts_of_target
from ichseg.cli import build_parser, main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE, YAML = (
    [code for page in PAGES for code in re.findall(rf"```{kind}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]
    for kind in ("python", "yaml")
)


@pytest.mark.parametrize("code", CODE)
def test_python_runs(code, tmp_path, monkeypatch):
    if "STUDY" in code:
        pytest.importorskip("pydicom")
        from broken_files import head
        from dicom_files import save_series

        save_series(tmp_path / "STUDY", head().astype(int))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("code", YAML)
def test_configs_name_what_is_there(code, tmp_path):
    from monai.bundle import ConfigParser
    from monai.networks.nets import DenseNet121

    content = yaml.safe_load(code)
    for entry in targets(content):
        assert entry["_target_"] == "my_package.MyNet" or not list(doubts_of_target(entry)), entry
    if "maps" in content:
        torch.save(DenseNet121(2, 1, 2).state_dict(), tmp_path / "classifier.pt")
        content["maps"]["network"]["path"] = str(tmp_path / "classifier.pt")
        item = ConfigParser(content).get_parsed_content("maps")({"image": torch.rand(1, 64, 64, 2)})
        assert item["image_cam_1"].shape == (1, 64, 64, 2)


def targets(content):
    """Every mapping with a ``_target_``."""
    if isinstance(content, dict) and "_target_" in content:
        yield content
    for part in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from targets(part)


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
