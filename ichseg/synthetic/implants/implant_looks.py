"""How blood looks, by its age and place: density, texture, edge, and what it does to the brain next to it.

Densities by age: Bradley 1993 and Parizel et al. 2001 for the order (acute 50 to 80 HU, like brain after one to three
weeks, like fluid after that); the shares are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Of collections outside the brain: acute, like brain, like fluid, and both with a level between them.
AGES, AGE_SHARES = (
    ("acute", "subacute", "chronic", "mixed"),
    {"SDH": (0.64, 0.2, 0.08, 0.08), "EDH": (0.84, 0.16, 0, 0)},
)
ACUTE_HU, SUBACUTE_HU, CHRONIC_HU, SUBARACHNOID_HU = (48.0, 80.0), (36.0, 48.0), (-2.0, 26.0), (44.0, 62.0)
FAINT_HU = (9.0, 20.0)  # above the brain around it: contusions; cortex is brighter than white matter by up to 8


@dataclass(frozen=True)
class ImplantLook:
    """Of one lesion.

    Attributes:
        density: HU at the edge; HU above the brain around it if ``relative``.
        relative: blood between fibers, which brightens what is there.
        darkens: replaces what is brighter as well; acute blood only brightens.
        lower: HU of what has settled at the back, if it is another; None: no level.
        core: HU more toward the middle.
        coarse: HU of the texture.
        blur: mm of the edge.
        edema: HU darker around it, and over how many mm; None: none.
        push: share of its half thickness by which brain gives way.
    """

    density: float
    relative: bool = False
    darkens: bool = False
    lower: float | None = None
    core: float = 0.0
    coarse: float = 2.0
    blur: float = 0.8
    edema: tuple[float, float] | None = None
    push: float = 0.0


def draw_look(subtype: str, faint: bool, rng: np.random.Generator) -> ImplantLook:
    """Draw how a lesion looks.

    Args:
        subtype: EDH, IPH, IVH, SAH or SDH.
        faint: a contusion: a few HU above the brain around it, with a fuzzy edge.
        rng: source of chance.
    """
    core, coarse, blur = rng.uniform(0, 5), rng.uniform(1, 7), rng.uniform(0.5, 1.1)
    if faint:
        edema = (rng.uniform(2, 8), rng.uniform(2, 8)) if rng.uniform() < 0.5 else None
        return ImplantLook(rng.uniform(*FAINT_HU), relative=True, core=core, coarse=rng.uniform(1, 4),
                           blur=rng.uniform(1.0, 3.0), edema=edema)  # fmt: skip
    if subtype == "SAH":
        return ImplantLook(rng.uniform(*SUBARACHNOID_HU), core=core, coarse=coarse, blur=blur)
    if subtype == "IVH":
        return ImplantLook(rng.uniform(44, 80), core=core, coarse=coarse, blur=blur)
    push = rng.uniform(0.3, 1.0) if rng.uniform() < 0.6 else 0.0
    if subtype == "IPH":
        edema = (rng.uniform(4, 12), rng.uniform(2, 7)) if rng.uniform() < 0.7 else None
        return ImplantLook(rng.uniform(*ACUTE_HU), core=core, coarse=coarse, blur=blur, edema=edema, push=push)
    age = str(rng.choice(AGES, p=AGE_SHARES[subtype]))
    if age == "acute":
        return ImplantLook(rng.uniform(*ACUTE_HU), core=core, coarse=coarse, blur=blur, push=push)
    if age == "subacute":
        return ImplantLook(rng.uniform(*SUBACUTE_HU), darkens=True, core=core, coarse=coarse, blur=blur, push=push)
    dark = rng.uniform(*CHRONIC_HU)
    lower = rng.uniform(35, 70) if age == "mixed" else None
    return ImplantLook(dark, darkens=True, lower=lower, coarse=rng.uniform(0, 3), blur=blur, push=push)
