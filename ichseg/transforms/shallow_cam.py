"""Activation maps of a volume's positive slices, the paper's way."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Transform
from monai.transforms.traits import ThreadUnsafe
from torch import nn

from ichseg.cam import (
    CAMExtractor,
    evaluation_mode,
    layer_cam,
    min_max,
    principal_component,
    shallow_feature_cam,
    sole_use,
)
from ichseg.context import MemoryBank, amplify, positive_runs, upsample
from ichseg.context import vote as vote_of
from ichseg.io import atomic_path
from ichseg.parallel import map_images
from ichseg.precision import checked_precision, full_precision, lower_type, warn_of_slow_bf16
from ichseg.provenance import network_hash, value_hash
from ichseg.transforms.base import BACKENDS, DictionaryTransform
from ichseg.transforms.volumes import like, plain, volume_slice_axis

UPSAMPLE = ("last", "first")
# In lower precision, slices this near to the gate are scored again in full: a map more or less is no rounding error.
DOUBT = 0.1


class ShallowFeatureCAM(Transform, ThreadUnsafe):
    """Maps of the shallow layers of one or more classifiers, averaged over the classifiers.

    Per slice, model and layer: LayerCAM of the hemorrhage logit, scaled to [0, 1], gated by the first
    principal component of the layer's features; the first layer is amplified by ``tanh``; then the mean over
    models. Only slices whose probability reaches ``gate`` are given maps; the others have maps of zeros, exactly
    as if they had been cut out. Every slice goes through every network once, and back only if it reaches the gate
    (twice where it must be scored apart: near the gate in bf16, and with ``cache_dir``).

    Args:
        networks: slice classifiers, or one module that holds them as ``networks``; moved to the device.
        layers: module paths of layer 1 and layer 2, the same for all networks; or one list per network. None: what
            an ensemble says in its ``cam_layers``, else ``("layer1", "layer2")``.
        gate: probability of hemorrhage a slice needs.
        vote: how the classifiers agree on it, see :func:`ichseg.context.vote` (decision D11). None: what an
            ensemble says in its ``vote``, else ``"mean"``.
        method: ``"shallow_feature_cam"``, or any other of :data:`ichseg.cam.METHODS`, scaled to [0, 1].
        target: class that is explained, or ``"predicted"`` (decision D6).
        component_mode: ``"spatial"`` or ``"channel"``, see :func:`ichseg.cam.principal_component`.
        component_sign: ``"cam"`` or ``"border"``, see :func:`ichseg.cam.oriented`.
        combine: ``"gated"``, ``"additive"`` or ``"literal"``, see :func:`ichseg.cam.shallow_feature_cam`.
        upsample: ``"last"``: maps are scaled, gated, amplified and fused at the layer's own size (decisions D7 and
            D13; the paper draws it so). ``"first"``: raw maps go up to the slice's size before all of it, as the
            authors of LayerCAM scale theirs.
        amplify_scale: lambda of the first layer's tanh; 0 leaves it out.
        batch_size: slices per pass.
        device: where the networks run.
        precision: ``"fp32"`` or ``"bf16"`` for the networks' forward passes; bf16 changes the maps a little. Slices
            near the gate are scored in fp32 all the same.
        cache_dir: keep every map in this folder and take it from there next time, e.g. for another threshold.
            Files are named by the slices, the options, and the networks' weights, layout and plain attributes; what
            a network's code does beyond these is not seen. None keeps nothing.

    Raises:
        ValueError: lists of layers that do not fit the networks, or an unknown ``upsample``; when called: an unknown
            ``method``, ``component_mode`` or ``combine``, or not one probability per slice.
        IchsegError: an unknown ``precision``.
    """

    backend = BACKENDS

    def __init__(
        self,
        networks: nn.Module | Sequence[nn.Module],
        layers: Sequence[str] | Sequence[Sequence[str]] | None = None,
        gate: float = 0.5,
        vote: str | None = None,
        method: str = "shallow_feature_cam",
        target: int | str = 1,
        component_mode: str = "spatial",
        component_sign: str = "cam",
        combine: str = "gated",
        upsample: str = "last",
        amplify_scale: float = 2.0,
        batch_size: int = 8,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        cache_dir: str | Path | None = None,
    ) -> None:
        layers = layers or getattr(networks, "cam_layers", None) or ("layer1", "layer2")
        vote = str(vote or getattr(networks, "vote", "mean"))
        if isinstance(networks, nn.Module):
            networks = list(getattr(networks, "networks", [networks]))
        self.networks = [network.to(torch.device(device)) for network in networks]
        flat = isinstance(layers[0], str)
        self.layers: list[list[str]] = [[*layers]] * len(self.networks) if flat else [[*x] for x in layers]
        if len(self.layers) != len(self.networks):
            raise ValueError(f"{len(self.networks)} networks need one list of layers each, not {len(self.layers)}")
        if upsample not in UPSAMPLE:
            raise ValueError(f"upsample must be one of {', '.join(UPSAMPLE)}, not '{upsample}'")
        self.gate, self.vote, self.method, self.target, self.upsample = gate, vote, method, target, upsample
        self.component_mode, self.component_sign, self.combine = component_mode, component_sign, combine
        self.amplify_scale, self.batch_size, self.device = amplify_scale, batch_size, torch.device(device)
        self.precision = checked_precision(precision)
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self._sizes: dict[tuple[tuple[int, int], int], tuple[int, int]] = {}

    def __call__(
        self, volume: torch.Tensor, probabilities: torch.Tensor | None = None
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """(1, X, Y, Z) in [0, 1], windowed and resized as in training.

        Args:
            volume: the scan.
            probabilities: (slices,) probability of hemorrhage where it is known, NaN where the networks are to be
                asked; None asks for all.

        Returns:
            one volume of maps (1, ...) per layer at the layer's own size, and (slices,) the probabilities. The maps
            keep the affine of the scan, on whose grid the steps after them lay them.
        """
        if volume.ndim != 4 or volume.shape[0] != 1:
            raise ValueError(f"expected a scan of shape (1, X, Y, Z), not {tuple(volume.shape)}")
        axis = volume_slice_axis(volume)
        slices = plain(volume).float().movedim(1 + axis, 0).contiguous()  # (n, 1, H, W)
        content = (
            None
            if self.cache_dir is None
            else hashlib.sha256(repr(slices.shape).encode() + slices.cpu().numpy().tobytes()).hexdigest()
        )
        known = torch.full((len(slices),), torch.nan) if probabilities is None else torch.as_tensor(probabilities)
        known = known.detach().flatten().clone().cpu()
        if len(known) != len(slices):
            raise ValueError(f"{len(slices)} slices need the same number of probabilities, not {len(known)}")
        bank = MemoryBank()
        with sole_use(*self.networks):
            if content is None:
                self._along(slices, known, bank)
            else:
                self._kept(slices, known, bank, content)
        positive = [float(p) >= self.gate for p in known]
        maps = []
        for number in range(len(self.layers[0])):
            stack: torch.Tensor | None = None
            for start, stop in positive_runs(positive):
                run = bank.ensembled(start, stop, number)
                stack = run.new_zeros(len(slices), *run.shape[1:]) if stack is None else stack
                stack[start:stop] = run
            if stack is None:  # no positive slice: zeros of the usual size, so that scans can be batched
                stack = slices.new_zeros(len(slices), *self._map_size(slices, number))
            maps.append(like(stack.movedim(0, axis)[None].cpu(), volume))
        return maps, known

    def _map_size(self, slices: torch.Tensor, order: int) -> tuple[int, int]:
        """Size of the maps of a layer, found out with one slice."""
        size = (int(slices.shape[2]), int(slices.shape[3]))
        if self.upsample == "first" or not len(slices):
            return size
        if (size, order) not in self._sizes:  # no network has looked at a slice: a copy, so that none is disturbed
            with CAMExtractor(deepcopy(self.networks[0]), self.layers[0], layer_cam, self.target) as extractor:
                extractor.forward(slices[:1].to(self.device))
                self._keep_sizes(size, extractor)
        return self._sizes[size, order]

    def _keep_sizes(self, size: Sequence[int], extractor: CAMExtractor) -> None:
        for number, found in enumerate(extractor.sizes.values()):
            self._sizes[(int(size[0]), int(size[1])), number] = (int(found[0]), int(found[1]))

    @property
    def autocast(self) -> torch.dtype | None:
        """What the networks' forward passes run in; None is float32."""
        lower = lower_type(self.precision)
        if lower is not None and self.device.type == "cpu":
            warn_of_slow_bf16()
        return lower

    def _along(self, slices: torch.Tensor, known: torch.Tensor, bank: MemoryBank) -> None:
        """Score and map in one pass, on a CPU one batch per core; the backward pass only where the gate says so.

        Every slice goes through every network once. Slices known to be below the gate are not looked at.
        """
        chosen = [number for number, p in enumerate(known) if not float(p) < self.gate]
        with ExitStack() as open_ones:
            extractors = [
                open_ones.enter_context(
                    CAMExtractor(network, layers, self._method(slices.shape[-2:]), self.target, self.autocast)
                )
                for network, layers in zip(self.networks, self.layers, strict=True)
            ]

            def one(numbers: list[int]) -> None:
                batch = slices[numbers].to(self.device)
                looks = [extractor.look(batch) for extractor in extractors]
                self._keep_sizes(slices.shape[2:], extractors[0])
                each = torch.stack([logits.softmax(dim=1)[:, 1] for logits, _ in looks])
                self._learn(known, numbers, vote_of(each, self.vote).cpu(), slices)
                wanted = [place for place, number in enumerate(numbers) if float(known[number]) >= self.gate]
                # One network's graph after the other is let go.
                for model, layers in enumerate(self.layers if wanted else ()):
                    found = looks.pop(0)[1]()
                    for place in wanted:
                        for order, name in enumerate(layers):
                            bank.put(numbers[place], order, model, self._finished(found[name][place], order, slices))

            # In lower precision doubtful slices are scored again, which takes the networks' locks.
            by_core = self.device.type == "cpu" and self.autocast is None
            share = math.ceil(len(chosen) / torch.get_num_threads()) if by_core else self.batch_size
            size = max(1, min(self.batch_size, share))
            batches = [chosen[start : start + size] for start in range(0, len(chosen), size)]
            if by_core:
                map_images(one, batches)
            else:
                for numbers in batches:
                    one(numbers)

    def _kept(self, slices: torch.Tensor, known: torch.Tensor, bank: MemoryBank, content: str) -> None:
        """Score first, then take kept maps and make those that lack."""
        asked = known.isnan().nonzero().flatten().tolist()
        if asked:
            self._learn(known, asked, self.score(slices[asked]), slices)
        chosen = [number for number, p in enumerate(known) if float(p) >= self.gate]
        for model, (network, layers) in enumerate(zip(self.networks, self.layers, strict=True)):
            for number, found in self._maps(network, layers, slices, chosen, content).items():
                for order, one in enumerate(found):
                    bank.put(number, order, model, one)

    def _learn(self, known: torch.Tensor, numbers: list[int], scores: torch.Tensor, slices: torch.Tensor) -> None:
        """Enter the scores of slices that were unknown; what lower precision leaves near the gate is scored in full."""
        unknown = known[numbers].isnan()
        doubtful = unknown & ((scores - self.gate).abs() < DOUBT)
        if self.autocast is not None and self.gate > 0 and bool(doubtful.any()):
            with full_precision():
                scores[doubtful] = self.score(slices[numbers][doubtful])
        known[numbers] = torch.where(unknown, scores.to(known), known[numbers])

    def _finished(self, one: torch.Tensor, order: int, slices: torch.Tensor) -> torch.Tensor:
        """(h, w): what a map of a layer becomes before the mean over networks."""
        if self.method != "shallow_feature_cam":
            one = min_max(upsample(one[None], slices.shape[-2:])[0] if self.upsample == "first" else one)
        return amplify(one, self.amplify_scale) if order == 0 and self.amplify_scale else one

    def score(self, slices: torch.Tensor) -> torch.Tensor:
        """(n, 1, H, W) -> (n,) probability of hemorrhage, the networks' vote."""
        scores = []
        cast = torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)
        with torch.no_grad(), cast, ExitStack() as modes:
            for network in self.networks:
                modes.enter_context(evaluation_mode(network))
            for start in range(0, len(slices), self.batch_size):
                batch = slices[start : start + self.batch_size].to(self.device)
                each = torch.stack([network(batch).float().softmax(dim=1)[:, 1] for network in self.networks])
                scores.append(vote_of(each, self.vote).cpu())
        return torch.cat(scores)

    def _maps(
        self, network: nn.Module, layers: list[str], slices: torch.Tensor, chosen: list[int], content: str
    ) -> dict[int, list[torch.Tensor]]:
        """Slice number -> one (h, w) map per layer, for the chosen slices."""
        if self.cache_dir is None or not chosen:
            return {}
        file = self.cache_dir / f"{self._fingerprint(network, layers, content)}.pt"
        known = torch.load(file, weights_only=True) if file.is_file() else {}
        lacking = [number for number in chosen if number not in known]
        if lacking:
            made = self._make(network, layers, slices, lacking)
            known |= {number: [one.cpu().clone() for one in maps] for number, maps in made.items()}
            with atomic_path(file) as temporary:
                torch.save(known, temporary)
        return {number: known[number] for number in chosen}

    def _make(self, network, layers, slices, chosen) -> dict[int, list[torch.Tensor]]:
        made: dict[int, list[torch.Tensor]] = {}
        with CAMExtractor(network, layers, self._method(slices.shape[-2:]), self.target, self.autocast) as extractor:
            for start in range(0, len(chosen), self.batch_size):
                numbers = chosen[start : start + self.batch_size]
                _, found = extractor(slices[numbers].to(self.device))
                for place, number in enumerate(numbers):
                    made[number] = [
                        self._finished(found[name][place], order, slices) for order, name in enumerate(layers)
                    ]
        return made

    def _method(self, size: Sequence[int]) -> str | Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        if self.method != "shallow_feature_cam":
            return self.method

        def gated(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
            cam = layer_cam(activations, gradients)
            component = principal_component(activations, self.component_mode)
            if self.upsample == "first":
                cam, component = upsample(cam, size), upsample(component, size)
            return shallow_feature_cam(min_max(cam), component, self.combine, self.component_sign)

        return gated

    def _fingerprint(self, network: nn.Module, layers: list[str], content: str) -> str:
        """Everything the maps depend on, as a file name. Once per scan: weights may change between scans."""
        options = [layers, self.method, self.target, self.component_mode, self.component_sign, self.combine,
                   self.upsample, self.amplify_scale, str(self.autocast)]  # fmt: skip
        return value_hash([network_hash(network), options, content])[:32]


def cam_keys(layers: Sequence[str] | Sequence[Sequence[str]], key: str = "image") -> list[str]:
    """The keys that :class:`ShallowFeatureCAMd` adds for some layers: ``image_cam_1``, ``image_cam_2``, ..."""
    first = layers if isinstance(layers[0], str) else layers[0]
    return [f"{key}_cam_{number}" for number in range(1, len(first) + 1)]


class ShallowFeatureCAMd(
    DictionaryTransform, ThreadUnsafe, array=ShallowFeatureCAM, companions={"probability_key": None}
):
    """Dictionary version of :class:`ShallowFeatureCAM`.

    Adds ``<key>_cam_1``, ``<key>_cam_2`` (the maps of the layers) and ``<key>_probability`` (slices,).
    ``probability_key`` holds probabilities of the slices that are known already, NaN where they are not.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            (known,) = self.companion_values(item)
            maps, item[f"{key}_probability"] = self.transform(item[key], known)
            item |= {f"{key}_cam_{number}": volume for number, volume in enumerate(maps, start=1)}
        return item
