"""Turned, shifted, scaled, noisier: what a batch of head CT slices may look like as well."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ichseg.processes import place_and_count

BONE = 0.97  # of the window
LOWEST_CLIP = 0.75


@dataclass
class Augmentation:
    """Random changes of a whole batch at once, on the batch's own device; MONAI's transforms take slice by slice.

    Attributes:
        turn: degrees, to either side.
        scale: relative; both axes also differ by up to ``stretch``.
        shift: share of the slice.
        flip: chance of exchanging left and right.
        gain, bias: of the gray values (around black, and absolute in units of the window).
        noise: largest standard deviation, in units of the window; every other slice gets some, half with the grain
            of a smooth kernel, that is, alike in pixels side by side.
        kernel: every other slice is sharpened by up to this much of what differs from its 3 x 3 mean, or smoothed by up
            to two thirds as much: reconstruction kernels differ.
        glow: how much of a halo around bone is added at most, in units of the window; every other slice gets some, or a
            third as much taken away. Scanners differ in beam hardening and scatter: brain beneath bone looks denser.
        amount: scales turn, scale, stretch, shift, gain, bias, noise, kernel, glow and clip.
        clip: chance that what is brighter than some value between ``LOWEST_CLIP`` and 1 becomes white, as in scans that
            come clipped by a narrower window, see :class:`ichseg.transforms.RestoreBone`.
        alone: chance that a slice loses its neighbors, which then are itself: as an isolated slice comes.
    """

    turn: float = 23.0
    scale: float = 0.15
    stretch: float = 0.06
    shift: float = 0.04
    flip: float = 0.5
    gain: float = 0.12
    bias: float = 0.04
    noise: float = 0.08
    kernel: float = 1.2
    glow: float = 0.25
    clip: float = 0.2
    alone: float = 0.15
    amount: float = 1.0

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] and (B, 1, H, W) masks, -1 where unknown -> the same, changed alike."""
        n, device = len(image), image.device
        # In a process group every process draws for the whole batch and takes what is its own.
        place, processes = place_and_count()

        def between(low: float, high: float) -> Tensor:
            return torch.empty(n * processes, device=device).uniform_(low, high)[place::processes]

        angle = between(-self._much("turn"), self._much("turn")).deg2rad()
        first = 1 + between(-self._much("scale"), self._much("scale"))
        second = first * (1 + between(-self._much("stretch"), self._much("stretch")))
        mirror = torch.where(between(0, 1) < self.flip, -1.0, 1.0)  # of the first axis: grid_sample's second
        matrix = torch.zeros(n, 2, 3, device=device)
        matrix[:, 0, 0], matrix[:, 0, 1] = angle.cos() * first, -angle.sin() * first * mirror
        matrix[:, 1, 0], matrix[:, 1, 1] = angle.sin() * second, angle.cos() * second * mirror
        matrix[:, :, 2] = torch.stack(
            [between(-2 * self._much("shift"), 2 * self._much("shift")) for _ in range(2)], dim=1
        )
        grid = functional.affine_grid(matrix, [n, 1, *image.shape[2:]], align_corners=False)
        lonely = between(0, 1) < self.alone
        image = torch.where(lonely[:, None, None, None], image[:, :1], image)
        image = functional.grid_sample(image, grid, align_corners=False)
        sharper = between(-2 / 3 * self._much("kernel"), self._much("kernel")) * (between(0, 1) < 0.5)
        image = image + sharper[:, None, None, None] * (image - _mean3(image))
        image = image * (1 + between(-self._much("gain"), self._much("gain")))[:, None, None, None]
        image = image + between(-self._much("bias"), self._much("bias"))[:, None, None, None]
        much = self._much("glow")
        shining = between(-much / 3, much) * (between(0, 1) < 0.5)
        image = image + shining[:, None, None, None] * _halo(image)
        noisy = between(0, self._much("noise")) * (between(0, 1) < 0.5)
        grain = torch.randn(n * processes, *image.shape[1:], device=device)[place::processes]
        smooth = 3 * _mean3(grain)  # of unit variance again
        grain = torch.where((between(0, 1) < 0.5)[:, None, None, None], smooth, grain)
        image = image + noisy[:, None, None, None] * grain
        clipped = between(LOWEST_CLIP, 1).where(between(0, 1) < self._much("clip"), torch.tensor(1.0, device=device))
        image = torch.where(image >= clipped[:, None, None, None], 1.0, image)
        unknown = functional.grid_sample((mask < 0).float(), grid, align_corners=False) > 0.25
        inside = functional.grid_sample(mask.clamp(min=0).float(), grid, align_corners=False) > 0.5
        return image.clamp_(0, 1), torch.where(unknown, -1.0, inside.float())

    def _much(self, name: str) -> float:
        return self.amount * float(getattr(self, name))


def _mean3(image: Tensor) -> Tensor:
    """The mean of every pixel's 3 x 3 neighborhood."""
    return functional.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)


def _halo(image: Tensor) -> Tensor:
    """(B, C, H, W) in [0, 1] -> the bone of it, blurred over a few millimeters, and nothing on the bone itself."""
    bone = (image > BONE).float()
    reach = int(torch.randint(3, 12, ())) | 1  # pixels; three boxes make nearly a Gaussian
    blurred = bone
    for _ in range(3):
        blurred = _box(blurred, reach)
    return blurred * (1 - bone)


def _box(image: Tensor, reach: int) -> Tensor:
    """The mean over ``reach`` x ``reach`` pixels, an odd number, with zeros beyond the edge."""
    if image.device.type != "cpu":  # fast there, and running sums are not deterministic
        return functional.avg_pool2d(image, reach, stride=1, padding=reach // 2)
    edge = (reach // 2 + 1, reach // 2)
    for axis, padding in ((-1, edge), (-2, (0, 0, *edge))):  # running sums, whose time does not depend on the reach
        sums = functional.pad(image, padding).cumsum(axis)
        count = image.shape[axis]
        image = (sums.narrow(axis, reach, count) - sums.narrow(axis, 0, count)) / reach
    return image
