# SPDX-License-Identifier: Apache-2.0
"""What a run is asked to do, and what is missing for it, as a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from DIANetLib.errors import InputError
from DIANetLib.worker.protocol import BoxLPS, ModelInfo, ReviewOptions

from .Translate import tr as _

if TYPE_CHECKING:
    from .Results import Result


@dataclass(frozen=True)
class Settings:
    """What the panel says.

    Attributes:
        model: The model.
        inputs: Volume node, or None, by the name of its modality.
        roi: Markups ROI node that says where to look; None lets the model find it.
        device: `"auto"`, `"cpu"`, `"cuda:N"` or `"mps"`.
        samples: Stochastic passes; 0 for one pass; None for what suits the model, one pass or ten samples.
        seed: Of the stochastic passes.
        replace: Earlier result that the new one takes the place of.
        review: How low-confidence regions are looked for.
    """

    model: ModelInfo | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    roi: Any = None
    device: str = "auto"
    samples: int | None = None
    seed: int = 0
    replace: Result | None = None
    review: ReviewOptions = field(default_factory=ReviewOptions)

    @property
    def inputNodes(self) -> tuple[Any, ...]:
        """The nodes in the order of the model's modalities, without those that were left empty."""
        modalities = self.model.modalities if self.model is not None else ()
        nodes = (self.inputs.get(modality.name) for modality in modalities)
        return tuple(node for node in nodes if node is not None)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities that `inputNodes` are."""
        modalities = self.model.modalities if self.model is not None else ()
        return tuple(m.name for m in modalities if self.inputs.get(m.name) is not None)


def whatIsMissing(settings: Settings) -> str:
    """A sentence that says why a run cannot start with these settings; empty if it can."""
    model = settings.model
    if model is None:
        return _("Choose a model.")
    if model.problem is not None:
        return _("The model {name} cannot be used: {problem}").format(name=model.name, problem=model.problem)
    empty = [m.name for m in model.modalities if m.required and settings.inputs.get(m.name) is None]
    if empty:
        names = ", ".join(empty)
        return (
            _("Choose the {modality} volume.").format(modality=names)
            if len(empty) == 1
            else _("Choose the volumes: {modalities}.").format(modalities=names)
        )
    nodes = settings.inputNodes
    if not nodes:
        names = ", ".join(m.name for m in model.modalities)
        return _("Choose a volume, at least one of {modalities}.").format(modalities=names)
    if len({node.GetID() for node in nodes}) < len(nodes):
        return _("The same volume is chosen twice; choose a volume of its own for each modality.")
    for node in nodes:
        if node.GetImageData() is None:
            return _("The volume {name} has no image data.").format(name=node.GetName())
    return ""


def boxOf(settings: Settings) -> BoxLPS | None:
    """The box of the region of interest; None where there is none.

    Raises:
        InputError: It was chosen but not placed.
    """
    if settings.roi is None:
        return None
    from .Nodes import boxFromRoi

    box = boxFromRoi(settings.roi)
    if box is None:
        raise InputError(
            _("The region of interest {name} is not placed yet.").format(name=settings.roi.GetName()),
            remedy=_("Place it in a slice view, or choose none."),
        )
    return box
