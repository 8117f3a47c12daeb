"""Each bundle passes monai.bundle's own checks, and its configs agree with each other."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out

from ichseg.resources import bundle_folder
from ichseg.version import __version__

CONFIGS = [
    ("ich_slice_classification", "train.yaml", "train"),
    ("ich_pseudo_segmentation", "generate.yaml", "inference"),
    ("ich_segmentation", "train.yaml", "train"),
    ("ich_segmentation", "inference.yaml", "inference"),
]
BUNDLES = sorted({bundle for bundle, _, _ in CONFIGS})


def config(bundle, name):
    return yaml.safe_load((bundle_folder(bundle) / "configs" / name).read_text())


@pytest.mark.parametrize(("bundle", "name", "kind"), CONFIGS)
def test_properties_monai_expects(bundle, name, kind, phantoms, tmp_path):
    folder = bundle_folder(bundle)
    weights = tmp_path / "model.pt"
    network = ConfigParser(config("ich_segmentation", "inference.yaml")).get_parsed_content("network_def")
    torch.save(network.state_dict(), weights)
    overrides = {"dataset_dir": str(phantoms), "bundle_root": str(folder), "output_dir": str(tmp_path)}
    if bundle == "ich_segmentation" and name == "inference.yaml":
        overrides["weights"] = str(weights)
    workflow = ConfigWorkflow(
        config_file=str(folder / "configs" / name),
        meta_file=str(folder / "configs" / "metadata.json"),
        logging_file=str(folder / "configs" / "logging.conf"),
        workflow_type=kind,
        **overrides,
    )
    assert workflow.check_properties() == []


@pytest.mark.parametrize("bundle", BUNDLES)
def test_metadata(bundle):
    folder = bundle_folder(bundle)
    meta = json.loads((folder / "configs" / "metadata.json").read_text())
    for key in ("version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
                "description", "authors", "copyright", "network_data_format", "schema", "changelog"):  # fmt: skip
        assert meta[key], key
    assert meta["version"] == __version__ and __version__ in meta["changelog"]
    for tensor in [*meta["network_data_format"]["inputs"].values(), *meta["network_data_format"]["outputs"].values()]:
        assert {
            "type",
            "format",
            "num_channels",
            "spatial_shape",
            "dtype",
            "value_range",
            "is_patch_data",
            "channel_def",
        } <= set(tensor)
    for file in ("LICENSE", "docs/README.md", "configs/logging.conf"):
        assert (folder / file).is_file(), file


@pytest.mark.parametrize(
    ("bundle", "name"), [("ich_slice_classification", "train.yaml"), ("ich_segmentation", "inference.yaml")]
)
def test_network_takes_and_gives_what_the_metadata_says(bundle, name):
    folder = bundle_folder(bundle)
    if bundle == "ich_slice_classification":
        parser = ConfigParser(config(bundle, name))
        assert parser.get_parsed_content("network_def").eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 2)
        return
    verify_net_in_out(
        net_id="network_def",
        config_file=str(folder / "configs" / name),
        meta_file=str(folder / "configs" / "metadata.json"),
        device="cpu",
        n=4,
        bundle_root=str(folder),
    )


def test_what_stands_in_several_configs_is_the_same():
    train, inference = config("ich_segmentation", "train.yaml"), config("ich_segmentation", "inference.yaml")
    assert train["network_def"] == inference["network_def"]
    classify = config("ich_slice_classification", "train.yaml")
    assert classify["preprocessing"] == inference["preprocessing"]
    assert config("ich_pseudo_segmentation", "generate.yaml")["preprocessing"] == inference["preprocessing"]


@pytest.mark.parametrize(("bundle", "name", "kind"), CONFIGS)
def test_no_expression_imports_or_evaluates(bundle, name, kind):
    text = (bundle_folder(bundle) / "configs" / name).read_text()
    assert not any(word in text for word in ("__import__", "eval(", "exec(", "open("))


def test_shipped_weights_fit_and_are_small():
    file = bundle_folder("ich_segmentation") / "models" / "model.pt"
    assert file.stat().st_size < 25e6
    network = ConfigParser(config("ich_segmentation", "inference.yaml")).get_parsed_content("network_def")
    network.load_state_dict(torch.load(file, weights_only=True))
