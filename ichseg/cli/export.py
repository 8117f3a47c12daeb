"""``ichseg export``: a model for programs without ichseg."""

from __future__ import annotations

import argparse
from pathlib import Path

from ichseg.errors import DONE

HELP = "Write a model as TorchScript (.ts), ONNX (.onnx) or torch.export (.pt2), for any number of slices."
EXAMPLE = """ichseg export model.ts model.onnx model.pt2
  ichseg export unet.onnx --weights runs/unet/model.pt"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "outputs", nargs="+", metavar="OUTPUT", help="files to write; the extension (.ts, .onnx, .pt2) sets the format"
    )
    parser.add_argument("--weights", metavar="FILE", help="weight file (default: the model shipped with ichseg)")


def run(args: argparse.Namespace) -> int:
    from ichseg.bundle import BundleParts, weight_file
    from ichseg.networks import segmenter_settings
    from ichseg.networks.exported import check_output, export_network
    from ichseg.overrides import SIZE_STEP

    for output in args.outputs:
        check_output(Path(output))
    weights = weight_file(args.weights)
    settings = segmenter_settings(weights)
    parts = BundleParts("ich_segmentation", settings.pipeline, {"weights": weights, "device_name": "cpu"})
    network, channels = parts["network"], settings.in_channels
    for output in args.outputs:
        difference = export_network(network, output, channels, settings.size)
        told = "not verified; install onnxruntime to compare its logits"
        if difference is not None:
            told = f"logits differ by at most {difference:.0e}"
        print(f"wrote {output}: image (slices, {channels}, height, width) -> logits; {told}")
    print(f"height and width: multiples of {SIZE_STEP}; settings of the model: size {settings.size}, "
          f"window {settings.window_level:g} ± {settings.window_width / 2:g} HU")  # fmt: skip
    return DONE
