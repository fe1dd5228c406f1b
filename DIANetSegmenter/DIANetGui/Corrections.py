# SPDX-License-Identifier: Apache-2.0
"""Finish: the correction package of a result, from what the scene holds of it.

What is in a package, and how it is read: `DIANetLib.acwi.corrections`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from DIANetLib.errors import InputError
from DIANetLib.volume import Volume

from .Editing import EDIT_ATTRIBUTE
from .Messages import structureOf
from .Nodes import volumeFromNode
from .Review import STARTED_ATTRIBUTE, worklistOf
from .Scene import nodesOf
from .Translate import tr as _

if TYPE_CHECKING:
    from .Results import Result

__all__ = ["Package", "checkReviewed", "isUnsaved", "writePackage"]

FINISHED_ATTRIBUTE = "DIANet.Finished"


@dataclass(frozen=True)
class Package:
    """A package that was written.

    Attributes:
        directory: Its folder.
        changed: Voxels that were changed.
        notes: Sentences on what the reviewer would not expect.
    """

    directory: Path
    changed: int
    notes: tuple[str, ...] = ()


def writePackage(
    result: Result, parent: Path, reviewer: str, *, comment: str = "", copyImages: bool = False
) -> Package:
    """Write the correction package of a result.

    Args:
        result: The result; its segmentation is taken as it is now.
        parent: Folder of packages.
        reviewer: Who reviewed.
        comment: The reviewer's words.
        copyImages: Put copies of the images into it.

    Raises:
        DIANetError: Nothing was reviewed, an image is gone, the reviewer has no name, or the folder cannot be
            written. Nothing is left behind, and the scene is as it was.
    """
    from DIANetLib.acwi.corrections import write_correction
    from DIANetLib.inference.prediction import ModelRef

    checkReviewed(result)
    record = result.record
    before, after = _labels(result)
    images = _images(result)
    notes = _notes(result, after)
    if not copyImages:
        names = ", ".join(image.name for image in images if image.source is None)
        if names:
            notes.append(
                _("No file is known of the image {names}: keep one, or finish again with a copy.").format(
                    names=names
                )
            )
    directory = write_correction(
        parent,
        before=before,
        after=after,
        structures=[structureOf(info) for info in record.structures],
        regions=worklistOf(result).regions,
        images=images,
        model=ModelRef(record.model, record.modelVersion, record.modelSha256),
        reviewer=reviewer.strip(),
        started=_started(result),
        comment=comment.strip(),
        copy_images=copyImages,
    )
    result.segmentationNode.SetAttribute(FINISHED_ATTRIBUTE, _stamp(result, after))
    return Package(directory, int(np.count_nonzero(before.array != after.array)), tuple(notes))


def checkReviewed(result: Result) -> None:
    """Raise unless something was judged or changed.

    Raises:
        InputError: Nothing was.
    """
    if not _isReviewed(result):
        raise InputError(
            _("There is nothing to finish yet: no place was judged, and no label was changed."),
            remedy=_("Look at the places of the list first: accept, edit or skip them."),
        )


def isUnsaved(result: Result) -> bool:
    """Whether a result is or was reviewed, and no package holds what came of it; True where in doubt."""
    if result.segmentationNode.GetAttribute(EDIT_ATTRIBUTE):
        return True
    try:
        if not _isReviewed(result):
            return False
        stamp = _stamp(result, _labels(result)[1])
    except InputError:
        return True
    return bool(result.segmentationNode.GetAttribute(FINISHED_ATTRIBUTE) != stamp)


# --- helpers ---


def _isReviewed(result: Result) -> bool:
    if any(region.state != "open" for region in worklistOf(result).regions):
        return True
    before, after = _labels(result)
    return not np.array_equal(before.array, after.array)


def _stamp(result: Result, labels: Volume) -> str:
    """A hash of what a reviewer can change."""
    return hashlib.sha256(f"{labels.sha256()} {result.regions()}".encode()).hexdigest()


def _labels(result: Result) -> tuple[Volume, Volume]:
    """The labels as the model gave them, and as they are now, on one grid."""
    before = result.before()
    after = result.labels(None if before is None else before.geometry)
    return (after if before is None else before), after


def _images(result: Result) -> list[Volume]:
    """What was segmented, in the model's order, with the files that it was read from.

    Raises:
        InputError: A volume is gone.
    """
    record = result.record
    images = []
    for index, name in enumerate(record.inputs):
        node = result.inputNode(index) or _volumeNamed(result, name)
        if node is None:
            raise InputError(
                _("The volume {name}, which was segmented, is no longer in the scene.").format(name=name),
                remedy=_("Load it again under this name, and click Finish again; the review is kept."),
            )
        modality = record.modalities[index] if index < len(record.modalities) else None
        images.append(replace(volumeFromNode(node, modality), source=_fileOf(node)))
    return images


def _volumeNamed(result: Result, name: str) -> Any:
    """A volume that was loaded again under its name."""
    nodes = nodesOf(result.environment.scene, "vtkMRMLScalarVolumeNode")
    return next((node for node in nodes if node.GetName() == name and node.GetImageData() is not None), None)


def _fileOf(node: Any) -> str | None:
    """The file that holds a volume as it is in the scene; None if none does."""
    storage = node.GetStorageNode()
    if storage is None or node.GetModifiedSinceRead() or node.GetParentTransformNode() is not None:
        return None
    path = storage.GetFullNameFromFileName()
    return path if path and Path(path).is_file() else None


def _notes(result: Result, after: Volume) -> list[str]:
    record, segmentation = result.record, result.segmentationNode.GetSegmentation()
    notes = []
    if result.before() is None or result.beforeIsLate:
        notes.append(
            _("An earlier DIANet made this result without a copy of its labels: edits of then are not known.")
        )
    keys = {structure.key for structure in record.structures}
    added = []
    for index in range(segmentation.GetNumberOfSegments()):
        if segmentation.GetNthSegmentID(index) not in keys:
            added.append(segmentation.GetNthSegment(index).GetName())
    if added:
        notes.append(
            _("Segments that the model does not know are not in the package: {names}.").format(
                names=", ".join(added)
            )
        )
    gone = [s.name for s in record.structures if segmentation.GetSegment(s.key) is None]
    if gone:
        notes.append(_("Segments that were removed count as empty: {names}.").format(names=", ".join(gone)))
    return notes


def _started(result: Result) -> str:
    kept = result.segmentationNode.GetAttribute(STARTED_ATTRIBUTE)
    return kept or datetime.now().astimezone().isoformat("T", "seconds")
