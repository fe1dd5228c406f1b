# SPDX-License-Identifier: Apache-2.0
"""Which layers there are, what they are called, and on which scale they are shown.

The scales are fixed, equal for all cases, so that two can be compared by eye. They are those of the report
(`DIANetLib.formats.report_views.SCALES`) where it shows the same map.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from DIANetLib.errors import InputError
from DIANetLib.worker.protocol import LayerKind, StructureInfo

from .Translate import tr as _

__all__ = ["NUMBERED", "SCALES", "LayerKey", "layerTitle", "layerUnit"]

#: Value at the upper end of each kind's colour scale; the lower end is 0.
SCALES: Mapping[str, float] = {
    "total": math.log(2.0),  # nats: as unsure as between two equally probable labels
    "aleatoric": math.log(2.0),  # nats; a part of the total
    "epistemic": 0.2,  # nats
    "heteroscedastic": 0.01,  # variance of the logits, no unit; what the shipped model reaches
    "error": 1.0,  # probability
    "variance": 0.1,  # of 0.25 that are possible; one voxel in a thousand of the shipped models reaches it
    "gradcam": 1.0,  # relative to the map's own maximum
    "attention": 1.0,  # relative to the map's own maximum
    "path": 5.0,  # number of the path; more are not to be expected
}
#: Kinds whose values are numbers of things: nothing lies between two of them.
NUMBERED = ("path",)


_UNSAFE = re.compile(r"""[&<>"'%;:*?|/\\]""")


@dataclass(frozen=True)
class LayerKey:
    """Names a layer of a result.

    Attributes:
        kind: What it shows, one of `LayerKind`.
        structure: Key of the structure that it belongs to, for the kinds that have one per structure.

    Raises:
        InputError: There is no such kind.
    """

    kind: str
    structure: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(LayerKind):
            raise InputError(
                f"There is no layer {self.kind!r}, expected one of {', '.join(get_args(LayerKind))}."
            )

    @property
    def id(self) -> str:
        """Text for attributes and parameters: `"total"`, `"variance:hippocampus_left"`."""
        return self.kind if self.structure is None else f"{self.kind}:{self.structure}"

    @classmethod
    def parse(cls, text: str) -> LayerKey:
        """Read what `id` gave.

        Raises:
            InputError: There is no such kind.
        """
        kind, _colon, structure = text.partition(":")
        return cls(kind, structure or None)

    @property
    def scale(self) -> float:
        """Value at the upper end of its colour scale."""
        return SCALES[self.kind]


def layerUnit(kind: str) -> str:
    """Unit of a kind of layer; empty where it has none."""
    return {"total": _("nats"), "aleatoric": _("nats"), "epistemic": _("nats")}.get(kind, "")


def layerTitle(key: LayerKey, structures: Sequence[StructureInfo] = ()) -> str:
    """What people call a layer: `"Total uncertainty (nats)"`, `"Grad-CAM of Hippocampus left"`."""
    titles = {
        "total": _("Total uncertainty"),
        "aleatoric": _("Aleatoric uncertainty"),
        "epistemic": _("Epistemic uncertainty"),
        "heteroscedastic": _("Heteroscedastic variance"),
        "error": _("Error probability"),
        "variance": _("Variance"),
        "gradcam": _("Grad-CAM"),
        "attention": _("Attention"),
        "path": _("Reliable path"),
    }
    title, unit = titles[key.kind], layerUnit(key.kind)
    if unit:
        title = f"{title} ({unit})"
    if key.structure is None:
        return title
    names = {structure.key: structure.name for structure in structures}
    # The title becomes the name of a file, and Slicer's scene bundles escape none of what XML needs escaped.
    structure = _UNSAFE.sub(" ", names.get(key.structure, key.structure))
    return str(_("{layer} of {structure}").format(layer=title, structure=" ".join(structure.split())))
