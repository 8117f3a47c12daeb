"""The five hemorrhage subtypes and their codes, the same everywhere in ichseg (those of BHSD)."""

from __future__ import annotations

SUBTYPES: dict[int, str] = {1: "EDH", 2: "IPH", 3: "IVH", 4: "SAH", 5: "SDH"}
SUBTYPE_ORDER = tuple(SUBTYPES.values())  # in the order of a network's scores
SUBTYPE_NAMES: dict[str, str] = {
    "EDH": "epidural",
    "IPH": "intraparenchymal",
    "IVH": "intraventricular",
    "SAH": "subarachnoid",
    "SDH": "subdural",
}
