"""``ichseg export-onnx``: a model for programs without torch."""

from __future__ import annotations

import argparse

from ichseg.errors import DONE

HELP = "Write the network of a weight file as an ONNX graph for any number of slices of any size."
EXAMPLE = """ichseg export-onnx model.onnx
  ichseg export-onnx unet.onnx --weights runs/unet/model.pt"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUTPUT.onnx", help="the file to write")
    parser.add_argument("--weights", metavar="FILE", help="weight file (default: the model shipped with ichseg)")


def run(args: argparse.Namespace) -> int:
    from ichseg.bundle import BundleParts, weight_file
    from ichseg.networks import segmenter_settings
    from ichseg.networks.onnx import export_onnx

    weights = weight_file(args.weights)
    settings = segmenter_settings(weights)
    parts = BundleParts("ich_segmentation", settings.pipeline, {"weights": weights, "device_name": "cpu"})
    network = parts["network"]
    channels = next(m for m in network.modules() if hasattr(m, "in_channels")).in_channels
    export_onnx(network, args.output, channels, settings.size)
    print(f"wrote {args.output}: image (slices, {channels}, height, width), both multiples of 32 -> logits")
    return DONE
