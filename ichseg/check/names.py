"""Which dotted names a config may use: lists of what is allowed, looked up in the objects that the names mean."""

from __future__ import annotations

import difflib
import enum
import functools
import importlib
import inspect
import warnings
from collections.abc import Collection
from typing import Any

# Packages whose classes may be named ...
ALLOWED = ("ichseg", "ignite", "monai", "torch.device", "torch.nn", "torch.optim", "torch.utils.data",
           "torch.utils.tensorboard")  # fmt: skip
# ... but for what fetches, runs commands, or loads and writes things at places of its own.
REFUSED = (
    "ichseg.check", "ichseg.cli", "ichseg.bundle.run_bundle", "ignite.distributed.launcher", "monai._extensions",
    "monai.apps", "monai.auto3dseg", "monai.bundle", "monai.data.dataset.CacheNTransDataset",
    "monai.data.dataset.GDSDataset", "monai.data.dataset.LMDBDataset", "monai.data.dataset.PersistentDataset",
    "monai.data.utils.pickle_operations", "monai.fl", "monai.handlers.utils.write_metrics_reports",
    "monai.losses.perceptual", "monai.networks.blocks.text_embedding", "monai.networks.nets.hovernet",
    "monai.networks.nets.transchex",
    "monai.networks.trt_compiler", "monai.transforms.utils_create_transform_ims", "monai.utils.misc.run_cmd",
    "monai.utils.module", "monai.utils.state_cacher", "torch.utils.data.datapipes",
)  # fmt: skip
# Functions, unlike classes, do what they do at once: only those of these places.
FUNCTIONS = (
    "ichseg.cam", "ichseg.context", "ichseg.crf", "ichseg.data.datalist", "ichseg.synthetic.implants.pool",
    "ichseg.data.packed", "ichseg.data.packed_masks", "ichseg.data.packed_subtypes", "ichseg.data.slices",
    "ichseg.devices", "ichseg.bundle.guard_bundle_run", "ichseg.bundle.weight_file", "ichseg.folder.listing",
    "ichseg.methods.hgi_sam", "ichseg.methods.resnet_lstm",
    "ichseg.methods.chest_xray", "ichseg.methods.dropblock", "ichseg.methods.label_efficient", "ichseg.metrics",
    "ichseg.networks", "ichseg.evaluation.masks", "ichseg.provenance.file_hash",
    "ichseg.evaluation.threshold_search", "ichseg.training", "ichseg.transforms", "ignite.metrics",
    "monai.data.decathlon_datalist", "monai.data.utils", "monai.handlers", "monai.inferers", "monai.losses",
    "monai.metrics", "monai.networks.blocks", "monai.networks.layers", "monai.networks.nets",
    "monai.networks.utils.copy_model_state", "monai.networks.utils.normal_init", "monai.networks.utils.one_hot",
    "monai.networks.utils.predict_segmentation", "monai.optimizers", "monai.transforms",
    "monai.utils.misc.ensure_tuple", "monai.utils.misc.ensure_tuple_rep", "monai.utils.misc.fall_back_tuple",
    "monai.utils.misc.first", "monai.utils.misc.set_determinism", "torch.nn", "torch.optim", "torch.utils.data",
)  # fmt: skip
# What expressions may use besides.
EXACTLY = frozenset((
    "glob.escape", "glob.glob", "glob.iglob", "torch.Generator", "torch.Size", "torch.Tensor",
    "torch.cuda.current_device", "torch.cuda.device_count", "torch.cuda.get_device_name",
    "torch.cuda.is_available", "torch.cuda.manual_seed", "torch.cuda.set_device",
    "torch.distributed.destroy_process_group", "torch.distributed.get_rank", "torch.distributed.get_world_size",
    "torch.distributed.init_process_group", "torch.distributed.is_available",
    "torch.distributed.is_initialized", "torch.einsum", "torch.inference_mode", "torch.is_tensor",
    "torch.manual_seed", "torch.no_grad", "torch.norm", "torch.set_float32_matmul_precision",
))  # fmt: skip
NUMPY_FILES = frozenset((
    "DataSource", "fromfile", "fromregex", "genfromtxt", "load", "loadtxt", "memmap", "save", "savetxt",
    "savez", "savez_compressed", "test",
))  # fmt: skip
NUMPY_PARTS = ("fft", "linalg", "random")
TORCH_FILES = frozenset(("from_file",))
# Modules that may be imported, and then only used by the lists above.
MODULES = ("glob", "ichseg", "ignite", "math", "monai", "numpy", "torch")


class Lacking(str):
    """What is wrong with a name that means nothing."""


def doubt_of_component(target: str, allow: Collection[str] = ()) -> str | None:
    """Why a class or function may not be named in ``_target_``, or None.

    Args:
        target: dotted path, or the bare name of a component of MONAI.
        allow: further dotted paths that may be named.
    """
    own = target.split(".")[0] in {name.split(".")[0] for name in allow} and below(target, allow)
    if "." in target and not own and (not below(target, ALLOWED) or below(target, REFUSED)):
        return f"'{target}' is not on the list of names allowed in a config (--allow extends it)"
    found = resolved(target)
    if isinstance(found, Lacking):
        return found
    if own:
        return None
    # A public alias of something that is refused is refused as well.
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    refused = below(home, REFUSED) or not below(home, ALLOWED)
    if refused or inspect.ismodule(found) or (not inspect.isclass(found) and not below(home, FUNCTIONS)):
        return f"'{target}' is {home.strip('.') or 'an unnamed object'}, which is not on the list of allowed names"
    return None


def doubt_of_name(dotted: str) -> str | None:
    """Why an expression may not use a dotted name, such as ``torch.hub.load``, or None."""
    root, _, rest = dotted.partition(".")
    if not rest:
        return f"exposes the module '{dotted}'"
    if root not in MODULES:
        return f"uses '{dotted}', which is not on the list of allowed names"
    if any(part.startswith("_") for part in rest.split(".")):
        return f"accesses the private name '{dotted}'"
    if dotted in EXACTLY or root == "math":
        return f"uses an unknown name: {found}" if isinstance(found := resolved(dotted), Lacking) else None
    if root == "numpy":
        return None if _harmless_numpy(rest.split(".")) else f"uses '{dotted}', which is not on the list for numpy"
    found = resolved(dotted)
    if isinstance(found, Lacking):
        return f"uses an unknown name: {found}"
    if _constant(found) or (root == "torch" and _harmless_torch(dotted, found)):
        return None
    doubt = doubt_of_component(dotted)
    return None if doubt is None else f"uses a refused name: {doubt}"


@functools.cache
def _components() -> Any:
    from monai.bundle.config_item import ComponentLocator

    return ComponentLocator()


@functools.cache
def resolved(target: str) -> Any:
    """The object a name means, or :class:`Lacking`; only packages on the lists are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "." not in target:
            module = _components().get_component_module_name(target)
            if module is None:
                return Lacking(f"'{target}' is not a MONAI component")
            target = f"{module if isinstance(module, str) else module[0]}.{target}"
        parts = target.split(".")
        for count in range(len(parts) - 1, 0, -1):
            try:
                found: Any = importlib.import_module(".".join(parts[:count]))
            except ModuleNotFoundError:
                continue
            except Exception as error:  # a module that fails to import is a finding, whatever its reason
                return Lacking(f"'{target}' cannot be imported ({type(error).__name__}: {error})")
            try:
                return functools.reduce(getattr, parts[count:], found)
            except AttributeError:
                known = sorted({*dir(found), *getattr(found, "__all__", ())})  # some are imported late
                named = [name for name in known if not inspect.ismodule(getattr(found, name, None))]
                return Lacking(f"'{target}' does not exist{near(parts[-1], named)}")
    return Lacking(f"'{target}' does not exist: there is no package '{parts[0]}'")


def below(target: str, paths: Collection[str]) -> bool:
    """True if a dotted path is one of ``paths`` or lies in one."""
    return any(target == path or target.startswith(f"{path}.") for path in paths)


def near(key: str, names: Collection[str]) -> str:
    """``; did you mean ...?`` if there is a name like the key."""
    close = difflib.get_close_matches(key, list(names), 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _harmless_numpy(parts: list[str]) -> bool:
    if len(parts) not in (1, 2) or (len(parts) == 2 and parts[0] not in NUMPY_PARTS):
        return False
    found = resolved(".".join(["numpy", *parts]))
    return parts[-1] not in NUMPY_FILES and not isinstance(found, Lacking) and not inspect.ismodule(found)


def _harmless_torch(dotted: str, found: Any) -> bool:
    """dtypes, and functions of torch itself that are written in C: arithmetic."""
    import torch

    name = dotted.removeprefix("torch.").removeprefix("nn.functional.")
    if "." in name or name in TORCH_FILES:
        return False
    return isinstance(found, torch.dtype | torch.layout) or inspect.isbuiltin(found)


def _constant(found: Any) -> bool:
    return isinstance(found, bool | int | float | str | enum.Enum)
