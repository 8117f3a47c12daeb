"""``ichseg segment``: masks, tables and a report for a folder of scans."""

from __future__ import annotations

import argparse
from pathlib import Path

from ichseg.cli.options import backend_option, run_options
from ichseg.defaults import DICOM_OBJECTS, DICOM_WRITTEN, ENGINES
from ichseg.errors import DONE, IchsegError
from ichseg.overrides import object_kinds

HELP = "Segment hemorrhage in NIfTI or DICOM folders or single files: OUTPUT/NAME_ich.nii.gz and OUTPUT/results.csv."
EXAMPLE = """ichseg segment SCANS MASKS
  ichseg segment scan.nii.gz MASKS --weights runs/unet/model.pt --device cuda:0
  ichseg segment SCANS/a*.nii.gz MORE/b.nii.gz MASKS
  ichseg segment DICOM_FOLDER MASKS
  ichseg segment study.zip MASKS --series all
  ichseg segment s3://BUCKET/SCANS s3://BUCKET/MASKS
  ichseg segment SCANS MASKS --shard auto                              (in every job of a job array)
  ichseg segment SCANS MASKS --engine dask --scheduler tcp://HOST:8786"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        metavar="INPUT",
        nargs="+",
        help="folders of .nii, .nii.gz or DICOM files, single files, zip archives of DICOM, or a table "
        "(.csv, .parquet) whose column 'image' names files; subfolders are kept. Or URLs of NIfTI files, such as "
        "s3://BUCKET/SCANS",
    )
    parser.add_argument(
        "output", metavar="OUTPUT", help="folder, or URL of one, for masks, results.csv and report.html"
    )
    parser.add_argument("--weights", metavar="FILE", help="weight file (default: the model shipped with ichseg)")
    parser.add_argument(
        "--threshold", type=float, help="threshold for the probability of hemorrhage (default: stored with the weights)"
    )
    told = "remove lesions smaller than ML milliliters (default: stored with the weights)"
    parser.add_argument("--min-volume", type=float, metavar="ML", help=told)
    parser.add_argument(
        "--save-probabilities", action="store_true", help="also write NAME_probability.nii.gz (float32)"
    )
    parser.add_argument("--parquet", action="store_true", help="also write results.parquet")
    parser.add_argument("--no-report", action="store_true", help="do not write report.html or its images")
    parser.add_argument("--overwrite", action="store_true", help="redo every scan, even those already done")
    parser.add_argument(
        "--shard", metavar="K/N",
        help="process part K of N, such as 1/4, then run 'ichseg merge'; in a job array: auto, or auto/N",
    )  # fmt: skip
    parser.add_argument(
        "--series", metavar="RULE",
        help="series of each DICOM study: best (axial, soft kernel, 2.5 to 6 mm; default), all, or a SeriesNumber or "
        "SeriesInstanceUID",
    )  # fmt: skip
    parser.add_argument(
        "--dicom", metavar="KIND,...",
        help=f"for DICOM input, write: {', '.join(DICOM_OBJECTS)}, or none (default: {','.join(DICOM_WRITTEN)})",
    )  # fmt: skip
    parser.add_argument("--size", type=int, help="pixels per side of the network's slices (default: as in training)")
    parser.add_argument(
        "--engine", choices=ENGINES, default=ENGINES[0],
        help="where scans are processed: local (here; default) or dask (workers of a Dask cluster)",
    )  # fmt: skip
    parser.add_argument(
        "--scheduler", metavar="ADDRESS",
        help="with --engine dask: tcp://HOST:PORT or a scheduler file (default: a cluster on this machine)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, metavar="N",
        help="with --engine dask and no --scheduler: worker processes (default: one for each core)",
    )  # fmt: skip
    parser.add_argument(
        "--work-dir", metavar="DIR",
        help="with URLs: folder for scans and masks while they are processed (default: the one for temporary files)",
    )  # fmt: skip
    backend_option(parser)
    run_options(parser)


def run(args: argparse.Namespace) -> int:
    from ichseg.bundle import run_bundle, weight_file
    from ichseg.folder.remote_scans import is_remote
    from ichseg.io.folder import check_output_folder
    from ichseg.io.urls import is_url
    from ichseg.late import import_monai
    from ichseg.overrides import check_numbers

    check_numbers({"size": args.size, "batch_size": args.batch_size, "workers": args.workers})
    on_dask = args.engine == "dask"
    for name in () if on_dask else ("scheduler", "workers"):
        if getattr(args, name) is not None:
            raise IchsegError(f"--{name} needs --engine dask")
    if on_dask and args.shard:
        raise IchsegError("--shard and --engine dask both divide the work; use one of them")
    if args.scheduler and args.workers:
        raise IchsegError("--workers is for a cluster on this machine; --scheduler has its own workers")
    remote = is_url(args.output) or any(map(is_remote, args.input))
    if remote and on_dask:
        raise IchsegError(
            "--engine dask needs folders that all workers can access; with URLs, split the work with --shard"
        )
    if args.work_dir and not remote:
        raise IchsegError("--work-dir is for inputs and outputs that are URLs")
    if not is_url(args.output):
        check_output_folder(args.output)
    inputs = [Path(one).absolute() for one in args.input]  # a link keeps its name
    weights = weight_file(args.weights).resolve()
    overrides = {
        "dataset_dir": inputs[0] if len(inputs) == 1 else inputs,
        "output_dir": Path(args.output).resolve(),
        "weights": weights,
        "threshold": args.threshold,
        "min_volume_ml": args.min_volume,
        "save_probabilities": args.save_probabilities,
        "report": not args.no_report,
        "parquet": args.parquet,
        "overwrite": args.overwrite,
        "shard": args.shard,
        "series": args.series,
        "dicom_objects": None if args.dicom is None else object_kinds("--dicom", args.dicom),
        "batch_size": args.batch_size,
        "precision": args.precision,
        "backend": args.backend,
        "device_name": args.device,
        "size": args.size,
    }
    import_monai()
    from ichseg.networks import segmenter_settings

    what = "ich_segmentation", segmenter_settings(weights).pipeline, overrides, args.set
    if on_dask:
        from ichseg.folder.dask_engine import run_on_dask

        on_gpu = args.device.lower().startswith(("cuda", "gpu"))
        run_on_dask(*what, scheduler=args.scheduler, workers=args.workers, on_gpu=on_gpu)
    elif remote:
        from ichseg.folder.remote import run_remote

        run_remote(*what, inputs=args.input, output=args.output, work_dir=args.work_dir)
    else:
        run_bundle(*what)
    return DONE
