"""What the MONAI Model Zoo's continuous integration asks of a bundle, by MONAI's own functions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from monai.bundle import ckpt_export, verify_net_in_out

from ichseg.bundle import bundle_folder
from ichseg.version import __version__

pytestmark = pytest.mark.slow
SHIPPED = ("ich_segmentation", "ich_slice_classification", "ich_pseudo_segmentation")


@pytest.mark.parametrize("name", SHIPPED)
def test_shape_and_torchscript_of_a_bundle(name, tmp_path):
    """With the arguments of the zoo's script: ``network_def``, ``configs/inference.yaml``, ``models/model.pt``."""
    folder = tmp_path / name
    shutil.copytree(bundle_folder(name), folder, ignore=shutil.ignore_patterns("runs"))
    assert sum(file.stat().st_size > 25e6 for file in folder.rglob("*")) == 0
    meta, config = folder / "configs" / "metadata.json", folder / "configs" / "inference.yaml"
    about = json.loads(meta.read_text())
    assert about["version"] in about["changelog"]
    common = {"meta_file": str(meta), "config_file": str(config), "bundle_root": str(folder)}
    verify_net_in_out(net_id="network_def", **common)
    exported = folder / "models" / "verify_model.ts"
    ckpt_export(net_id="network_def", filepath=str(exported), ckpt_file=str(folder / "models" / "model.pt"), **common)
    taken = about["network_data_format"]["inputs"]["image"]["num_channels"]
    given = about["network_data_format"]["outputs"]["pred"]["num_channels"]
    with torch.no_grad():
        assert torch.jit.load(exported).eval()(torch.rand(2, taken, 64, 64)).shape[1] == given


@pytest.mark.parametrize("name", SHIPPED)
def test_required_packages_can_be_asked_of_pip(name):
    """The zoo installs ``name==version`` of every entry; ours comes as a wheel, and the metadata say from where."""
    about = json.loads((bundle_folder(name) / "configs" / "metadata.json").read_text())
    wanted = about["required_packages_version"]
    assert wanted["ichseg"] == __version__ and all(re.fullmatch(r"[\d.]+", version) for version in wanted.values())
    assert "--find-links" in about["installation"]
    everywhere = bundle_folder(name).parent.glob("*/configs/metadata.json")
    assert {json.loads(file.read_text())["installation"] for file in everywhere} == {about["installation"]}
    assert "--find-links" in (bundle_folder(name) / "docs" / "README.md").read_text()


def test_the_wheel_holds_the_bundles_with_their_weights(tmp_path):
    """``pip wheel`` makes what ``pip install --find-links`` then finds."""
    source = bundle_folder("ich_segmentation").parents[1]
    if not (source / "pyproject.toml").is_file():
        pytest.skip("installed, not a checkout")
    words = ["-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(source)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    wheel = next(tmp_path.glob(f"ichseg-{__version__}-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert all(any(name.endswith(f"{bundle}/models/model.pt") for name in names) for bundle in SHIPPED)
