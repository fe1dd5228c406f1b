# SPDX-License-Identifier: Apache-2.0
"""Which maps of an output folder are layers, what they are called, and on which scale they are shown.

The scales are fixed, equal for all cases, so that two can be compared by eye; they are those of the report
and of the Slicer module. The maps are Eqs. 27, 28, 30, 33 and 35 of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from DIANetLib.structures import Structure

__all__ = ["SCALES", "Layer", "find_layers", "ticks"]

#: Value at the upper end of each kind's colour scale; the lower end is 0.
SCALES: Mapping[str, float] = {
    "total": math.log(2.0),  # nats: as unsure as between two equally probable labels
    "aleatoric": math.log(2.0),  # nats; a part of the total
    "epistemic": 0.2,  # nats
    "error": 1.0,  # probability
    "variance": 0.1,  # of 0.25 that are possible
    "gradcam": 1.0,  # relative to the map's own maximum
    "attention": 1.0,  # relative to the map's own maximum
    "path": 5.0,  # number of the path
}

_TITLES = {
    "total": "Total uncertainty",
    "aleatoric": "Aleatoric uncertainty",
    "epistemic": "Epistemic uncertainty",
}
_STEPS = 4


@dataclass(frozen=True)
class Layer:
    """A map of an output folder that can lie over the image.

    Args:
        id: Name for programs, unique in the folder: `"total"`, `"variance:hippocampus_left"`.
        title: Name for people.
        file: Name of the file in the folder.
        kind: One of `SCALES`, or `"saliency"`, whose scale is its own maximum.
        unit: What its numbers are; `"nats"`, `"probability"`, ...
        names: Names of the things that its values number from 1; empty for measurements.
    """

    id: str
    title: str
    file: str
    kind: str
    unit: str
    names: tuple[str, ...] = ()

    @property
    def scale(self) -> float | None:
        """Value at the upper end of its colour scale; None where that is the map's own maximum."""
        return SCALES.get(self.kind)


def find_layers(record: Mapping[str, Any], structures: Sequence[Structure]) -> tuple[Layer, ...]:
    """The layers that a `result.json` lists, those first that say where to look.

    Args:
        record: The content of `result.json`. Entries that are missing or of another type are left out.
        structures: What was segmented; names the maps that belong to one of them.
    """
    files = _mapping(record.get("files"))
    names = {structure.key: structure.name for structure in structures}
    layers = []
    if _is_name(files.get("error_probability")):
        layers.append(
            Layer(
                "error",
                "Error probability",
                files["error_probability"],
                "error",
                "probability of a wrong label",
            )
        )
    for kind, file in _files(files.get("uncertainty")):
        if kind in _TITLES:
            layers.append(Layer(kind, _TITLES[kind], file, kind, "nats"))
    for key, file in _files(files.get("variance")):
        title = f"Variance of {names.get(key, key)}"
        layers.append(Layer(f"variance:{key}", title, file, "variance", "variance of the probability"))
    for key, file in _files(files.get("gradcam")):
        title = f"Grad-CAM of {names.get(key, key)}"
        layers.append(Layer(f"gradcam:{key}", title, file, "gradcam", "relative to its maximum"))
    for name, file in _files(files.get("attention")):
        saliency = name == "saliency"
        unit = "image × attention" if saliency else "relative to its maximum"
        title = name.replace("_", " ").capitalize()
        layers.append(Layer(name, title, file, "saliency" if saliency else "attention", unit))
    if _is_name(files.get("reliable_path")):
        paths = _path_names(record.get("reliable_path"))
        layers.append(
            Layer("path", "Reliable path", files["reliable_path"], "path", "number of the path", paths)
        )
    return tuple(layers)


def ticks(scale: float) -> tuple[str, ...]:
    """Five numbers for a colour bar from 0 to `scale`, with two digits that count."""
    digits = max(0, 2 + math.ceil(-math.log10(scale) - 1e-9)) if scale > 0 else 2
    if scale >= 100:
        digits = 0
    return tuple(f"{scale * step / _STEPS:.{digits}f}" for step in range(_STEPS + 1))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _files(value: Any) -> list[tuple[str, str]]:
    return [(key, file) for key, file in _mapping(value).items() if _is_name(file)]


def _is_name(file: Any) -> bool:
    """Whether it names a file of the folder itself."""
    return isinstance(file, str) and Path(file).name == file


def _path_names(value: Any) -> tuple[str, ...]:
    paths = _mapping(value).get("paths")
    rows = paths if isinstance(paths, list) else []
    return tuple(str(_mapping(row).get("name", n)) for n, row in enumerate(rows, start=1))
