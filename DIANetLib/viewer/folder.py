# SPDX-License-Identifier: Apache-2.0
"""What is in an output folder: the numbers of `result.json`, the layers, the image it was made from.

What cannot be shown is no reason to show nothing: a map or an image that is missing or broken becomes a
sentence, and the rest is shown.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from DIANetLib.acwi.familiarity import Familiarity, familiarity_line
from DIANetLib.acwi.quality import DiceEstimate
from DIANetLib.errors import DIANetError, InputError
from DIANetLib.formats.dicom import list_series, read_series
from DIANetLib.formats.image import from_sitk, inspect, load, read_volume
from DIANetLib.formats.segmentation import read_segmentation
from DIANetLib.structures import ANATOMICAL_STRUCTURE, Structure
from DIANetLib.viewer.layers import Layer, find_layers
from DIANetLib.volume import Geometry, Volume

__all__ = [
    "Folder",
    "Input",
    "StructureResult",
    "box_of",
    "read_folder",
    "read_image",
    "read_labels",
    "read_layer",
]

_RESULT, _FORMAT, _VERSION = "result.json", "dianet-result", 1  # as `DIANetLib.formats.result` writes them
_SAME_GRID_MM = 1e-3


@dataclass(frozen=True)
class StructureResult:
    """What a run found of one structure.

    Args:
        structure: What it is; its name and colour.
        volume_ml: Its volume.
        dice: The Dice to be expected; None where it was not found.
    """

    structure: Structure
    volume_ml: float
    dice: DiceEstimate | None


@dataclass(frozen=True)
class Input:
    """An image that went into a run.

    Args:
        name: Name for people.
        modality: Name of the modality, where known.
        source: Where it was read from, where known.
        sha256: Hash of its content (`Volume.sha256`).
    """

    name: str
    modality: str | None
    source: str | None
    sha256: str

    @property
    def title(self) -> str:
        """Name and modality."""
        return f"{self.name} ({self.modality})" if self.modality else self.name


@dataclass(frozen=True)
class Folder:
    """An output folder of `dianet segment`.

    Args:
        directory: Where it is.
        geometry: The grid of all its maps.
        structures: What was looked for, with what was found of it.
        layers: Maps that can lie over the image, those whose files are there.
        segmentation: The segmentation's file; None where it is missing.
        inputs: The images that went in; the first is on `geometry`.
        model: Name and version of the model.
        created: When, ISO 8601.
        warnings: What the run warned of.
        familiarity: Whether the image is like what the model was fitted on; empty where not known.
        problems: What of the folder cannot be shown, as sentences.
    """

    directory: Path
    geometry: Geometry
    structures: tuple[StructureResult, ...]
    layers: tuple[Layer, ...]
    segmentation: Path | None
    inputs: tuple[Input, ...]
    model: str
    created: str
    warnings: tuple[str, ...]
    familiarity: str
    problems: tuple[str, ...]


def read_folder(directory: str | os.PathLike[str]) -> Folder:
    """Read what an output folder holds, without its maps.

    Raises:
        InputError: There is no such folder, it is no output folder of `dianet segment`, or its `result.json`
            cannot be read.
    """
    folder = Path(directory).absolute()
    record = _record(folder)
    try:
        geometry = _geometry(record["geometry"])
        found = tuple(_structure(row) for row in record["structures"])
        inputs = tuple(_input(row) for row in record["inputs"])
        model = f"{record['model']['name']} {record['model']['version']}"
        files = record["files"]
        segmentation = folder / Path(files["segmentation"]).name
        familiarity = familiarity_line([_familiarity(row) for row in record.get("familiarity") or ()])
    except DIANetError as error:
        raise InputError(f"{folder / _RESULT} has an entry that cannot be used: {error.message}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{folder / _RESULT} lacks an entry or has a wrong one ({type(error).__name__}: {error}).",
            remedy="Run `dianet segment` again.",
        ) from error
    layers = find_layers(record, [entry.structure for entry in found])
    there = tuple(layer for layer in layers if (folder / layer.file).is_file())
    problems = [
        f"{layer.title} cannot be shown: {layer.file} is missing." for layer in layers if layer not in there
    ]
    if not segmentation.is_file():
        problems.append(f"The segmentation cannot be shown: {segmentation.name} is missing.")
    return Folder(
        directory=folder,
        geometry=geometry,
        structures=found,
        layers=there,
        segmentation=segmentation if segmentation.is_file() else None,
        inputs=inputs,
        model=model,
        created=str(record.get("created", "")),
        warnings=tuple(str(text) for text in record.get("warnings") or ()),
        familiarity=familiarity,
        problems=tuple(problems),
    )


def read_layer(folder: Folder, layer: Layer) -> Volume:
    """Read a layer's map.

    Raises:
        InputError: The file cannot be read, is on another grid, or has voxels that are no finite numbers.
    """
    path = folder.directory / layer.file
    volume = from_sitk(load(path, inspect(path)), name=layer.title, source=str(path))
    if not volume.geometry.same_grid(folder.geometry, _SAME_GRID_MM):
        raise InputError(
            f"{layer.title} cannot be shown: {layer.file} is on another grid than the segmentation."
        )
    if volume.array.dtype.kind == "f" and not np.isfinite(volume.array).all():
        raise InputError(
            f"{layer.title} cannot be shown: {layer.file} has voxels that are no finite numbers."
        )
    return volume


def read_labels(folder: Folder) -> Volume:
    """Read the segmentation as one labelmap.

    Raises:
        InputError: It is missing, cannot be read, or is on another grid.
    """
    if folder.segmentation is None:
        raise InputError("The output folder has no segmentation.")
    labels, _ = read_segmentation(folder.segmentation)
    if not labels.geometry.same_grid(folder.geometry, _SAME_GRID_MM):
        raise InputError(
            f"The segmentation cannot be shown: {folder.segmentation.name} is on another grid than the maps."
        )
    return labels


def box_of(labels: Volume) -> npt.NDArray[np.float64] | None:
    """(2, 3) least and greatest corner of what was segmented, LPS mm; None where nothing was."""
    boxes = ndimage.find_objects((labels.array > 0).astype(np.uint8))
    if not boxes:
        return None
    ends = [(part.start - 0.5, part.stop - 0.5) for part in reversed(boxes[0])]
    corners = labels.geometry.index_to_world(list(itertools.product(*ends)))
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def read_image(folder: Folder, index: int, path: str | os.PathLike[str] | None = None) -> Volume:
    """Read an image that went into the run, if it is still the same.

    Args:
        folder: The output folder.
        index: Which of its inputs.
        path: Where it is now; default: where it was read from. A relative path counts from the working
            directory, then from the folder's parent.

    Raises:
        InputError: It is not known where the image is, it is not there, cannot be read, or has changed since.
    """
    entry = folder.inputs[index]
    given = path or entry.source
    remedy = "Say where it is with --image." if index == 0 else None
    if not given:
        raise InputError(f"Where the image {entry.title} is was not noted.", remedy=remedy)
    places = (
        [Path(given)] if path or Path(given).is_absolute() else [Path(given), folder.directory.parent / given]
    )
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise InputError(f"The image {entry.title} is no longer at {given}.", remedy=remedy)
    for volume in _volumes(place):
        if volume.sha256() == entry.sha256:
            return replace(volume, name=entry.name or volume.name, modality=entry.modality)
    raise InputError(
        f"The image at {place} is not the one that was segmented: its content has another SHA-256 than"
        f" {_RESULT} notes for {entry.title}.",
        remedy=remedy,
    )


def _volumes(place: Path) -> list[Volume]:
    """The volume of a file; of a DICOM folder those of all its series, as which one it was is not noted."""
    if not place.is_dir():
        return [read_volume(place)]
    series = list_series(place)
    if len(series) <= 1:
        return [read_series(place)]
    volumes, errors = [], []
    for info in series:
        try:
            volumes.append(read_series(place, info.uid))
        except InputError as error:  # a localiser among the series makes no volume
            errors.append(error)
    if not volumes:
        raise errors[0]
    return volumes


def _record(folder: Path) -> Mapping[str, Any]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(
            f"The output folder {folder} {what}.", remedy="Give a folder that `dianet segment` wrote."
        )
    file = folder / _RESULT
    if not file.is_file():
        raise InputError(
            f"{folder} is no output folder: {_RESULT} is missing.",
            remedy="Give a folder that `dianet segment` wrote.",
        )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}.", remedy="Run `dianet segment` again.") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise InputError(f'{file} is no result of DIANet: expected "format": "{_FORMAT}".')
    version = record.get("format_version")
    if not isinstance(version, int) or version > _VERSION:
        raise InputError(
            f"{file} has format version {version!r}, this program reads up to {_VERSION}.",
            remedy="Update DIANet.",
        )
    task = record.get("task", "segmentation")
    if task != "segmentation":
        raise InputError(
            f"{folder} holds a {task}, the viewer shows segmentations.",
            remedy=f"Open {folder / 'report.html'} in a browser instead.",
        )
    return record


def _geometry(row: Mapping[str, Any]) -> Geometry:
    return Geometry(
        tuple(row["size"]),
        tuple(row["spacing_mm"]),
        tuple(row["origin_mm"]),
        np.asarray(row["direction"], float),
    )


def _structure(row: Mapping[str, Any]) -> StructureResult:
    red, green, blue = row["color"]
    structure = Structure(
        int(row["value"]),
        row["key"],
        row["name"],
        (red, green, blue),
        ANATOMICAL_STRUCTURE,
        ANATOMICAL_STRUCTURE,
    )
    return StructureResult(structure, float(row["volume_ml"]), _dice(row.get("expected_dice")))


def _dice(row: Any) -> DiceEstimate | None:
    if not isinstance(row, Mapping) or row.get("value") is None:
        return None
    low, high = row.get("interval") or (None, None)
    return DiceEstimate(row["value"], low, high)


def _familiarity(row: Mapping[str, Any]) -> Familiarity:
    return Familiarity(float(row["score"]), row["grade"], row.get("region") or "")


def _input(row: Mapping[str, Any]) -> Input:
    return Input(
        str(row.get("name") or "image"), row.get("modality"), row.get("source"), str(row.get("sha256"))
    )
