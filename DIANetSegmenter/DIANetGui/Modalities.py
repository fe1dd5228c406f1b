# SPDX-License-Identifier: Apache-2.0
"""Guessing which volume is which modality, to fill the panel in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from DIANetLib.modalities import sequence_of
from DIANetLib.worker.protocol import ModalityInfo

from .Scene import hierarchy

__all__ = ["guessModality"]

_DICOM_MODALITY = "DICOM.Modality"


def guessModality(
    nodes: Sequence[Any], modalities: Sequence[ModalityInfo], active: Any = None
) -> dict[str, Any]:
    """Guess which volume is which modality, by whole words of their names and by their DICOM modality.

    Args:
        nodes: Volume nodes to choose from, the more likely ones first; labelmaps, images of several
            components and layers of results are left out.
        modalities: What a model wants.
        active: The volume that is shown; the first choice of a model with one modality, if its name does not
            say otherwise.

    Returns:
        A node by name of modality, never the same twice; modalities without a likely node are missing.
    """
    usable = [node for node in nodes if _isImage(node)]
    known = [(node, _modalityOf(node)) for node in usable]
    wanted = [(modality, _wantedBy(modality)) for modality in modalities]
    chosen: dict[str, Any] = {}
    if len(wanted) == 1:
        modality, kind = wanted[0]
        alike = [node for node, found in known if kind is not None and found == kind]
        silent = [node for node, found in known if found is None]
        preferred = [node for node in (*alike, *silent) if node is active]
        if preferred or alike:
            return {modality.name: (preferred or alike)[0]}
        if len(silent) == 1 or (kind is None and len(usable) == 1):
            return {modality.name: (silent or usable)[0]}
        return {}
    for modality, kind in wanted:
        for node, found in known:
            if kind is not None and found == kind and not any(node is taken for taken in chosen.values()):
                chosen[modality.name] = node
                break
    return chosen


def _isImage(node: Any) -> bool:
    if node is None or node.IsA("vtkMRMLLabelMapVolumeNode") or not node.IsA("vtkMRMLScalarVolumeNode"):
        return False
    image = node.GetImageData()
    if image is not None and image.GetNumberOfScalarComponents() != 1:
        return False
    return node.GetAttribute("DIANet.Layer") is None


def _modalityOf(node: Any) -> str | None:
    """What a node's name, or its DICOM modality, says that it is, as `sequence_of` calls it."""
    found = sequence_of(node.GetName() or "")
    if found is not None or node.GetScene() is None:
        return found
    tree = hierarchy(node.GetScene())
    item = tree.GetItemByDataNode(node)
    text = node.GetAttribute(_DICOM_MODALITY) or (
        tree.GetItemAttribute(item, _DICOM_MODALITY) if item else ""
    )
    return "CT" if (text or "").upper() == "CT" else None


def _wantedBy(modality: ModalityInfo) -> str | None:
    for name in (modality.name, *modality.aliases):
        found = sequence_of(name)
        if found is not None:
            return found
    return None
