"""Defaults and lists of names that the command line shows and the packages use, each in this one place.

Nothing is imported here, so that ``--help`` costs nothing. The bundles' configs repeat some of them; a test compares.
"""

BACKBONES = (
    "resnet34", "resnet50", "densenet121", "densenet169", "vgg16", "vgg19", "efficientnet_lite0", "convnextv2_tiny",
)  # fmt: skip
PAPER_PAIR = ("resnet34", "resnet50")
PRESETS = ("recommended", "paper")
EXPERIMENTS = ("table1", "table2", "table3", "table4", "figure7", "figure8")
SCORING_ARCHITECTURES = ("context", "lite")  # of the recommended preset: they score slices as well
MASK_ARCHITECTURES = ("small", "paper")
TRANSFER_ARCHITECTURES = ("label_efficient", "label_efficient_attention")  # pretrained without masks
ARCHITECTURES = SCORING_ARCHITECTURES + MASK_ARCHITECTURES + TRANSFER_ARCHITECTURES
PRECISIONS = ("fp32", "bf16")
BACKENDS = ("torch", "openvino", "onnxruntime")  # what runs a segmenter; torch is the reference
ENGINES = ("local", "dask")  # where a folder's scans are processed
METHODS = (
    "ma2025", "ma2025_pretrained", "recommended", "hgi_sam", "resnet_lstm", "label_efficient", "irnet", "psa", "edam",
    "rca", "ae", "unet", "hu_rule",
)  # fmt: skip
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
RATER_RULES = ("majority", "any")
IMPLANT_FAMILIES = ("shapes", "fields")
CONNECTIVITIES = (4, 8, 6, 18, 26)

COMPARED_SIZE, COMPARED_EPOCHS = 256, 20
TRAIN_FOLDS, VAL_FOLDS, TEST_FOLDS = "0-2", "3", "4"
HELD_OUT_FOLDS = f"{VAL_FOLDS},{TEST_FOLDS}"
FOLD_TOLERANCE = 0.03
PAPER_SIZE, PAPER_EPOCHS, PAPER_THRESHOLD = 384, 200, 0.22
PHANTOMS, PHANTOM_SIZE, PHANTOM_SLICES = 10, 256, 24
DEMO_PHANTOMS = 4
COMPACT_SIZE = 384
IMPLANTS_PER_SCAN = 2
CONNECTIVITY, TOLERANCE_MM = 8, 2.0
MEMBERS = 1
ROUNDING = 1e-3  # interpolation may take values of [0, 1] out of their range by this
# Window in which slices are shown, HU.
SHOWN_LEVEL, SHOWN_WIDTH = 40.0, 100.0
# What a folder run can write as DICOM, and what it writes of DICOM input unless told otherwise.
DICOM_OBJECTS = ("seg", "sr", "capture")
DICOM_WRITTEN = ("seg", "sr")
