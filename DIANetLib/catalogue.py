# SPDX-License-Identifier: Apache-2.0
"""What models there are, read from their metadata alone: what a program shows before anything is installed.

Standard library only. `DIANetLib.bundle` checks a model folder fully; here only what reading JSON and looking
at the length of a file tells is checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from DIANetLib.errors import DIANetError
from DIANetLib.model_folders import METADATA, WEIGHTS, read_document, search_paths
from DIANetLib.structures import Code, Structure
from DIANetLib.worker.protocol import CodeInfo, ModalityInfo, ModelInfo, StructureInfo

__all__ = ["read_catalogue", "search_paths", "structure_info"]


def read_catalogue(paths: Sequence[Path] | None = None) -> tuple[ModelInfo, ...]:
    """List the models in `paths` (default: `search_paths()`), usable or not; the first of a name wins.

    A folder that cannot be read is listed with its `problem`; the weights are neither opened nor hashed.
    """
    found: dict[str, ModelInfo] = {}
    for folder in search_paths() if paths is None else paths:
        for path in _folders(folder):
            if path.name not in found:
                found[path.name] = _entry(path)
    return tuple(found.values())


def structure_info(structure: Structure) -> StructureInfo:
    """The structure as messages carry it."""

    def info(code: Code) -> CodeInfo:
        return CodeInfo(code.scheme, code.value, code.meaning)

    return StructureInfo(
        structure.value,
        structure.key,
        structure.name,
        structure.color,
        info(structure.category),
        info(structure.type),
        None if structure.modifier is None else info(structure.modifier),
    )


def _folders(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # not there, or not to be read
        return []
    return [path for path in entries if not path.name.startswith(".") and (path / "configs").is_dir()]


def _entry(path: Path) -> ModelInfo:
    try:
        return _info(path, read_document(path))
    except DIANetError as error:
        return ModelInfo(path.name, str(path), problem=str(error))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"{path / METADATA} does not describe a usable model ({type(error).__name__}: {error})."
        return ModelInfo(path.name, str(path), problem=problem)


def _info(path: Path, data: Mapping[str, Any]) -> ModelInfo:
    section = data["dianet"]
    localiser = section.get("localiser")
    size = int(section.get("size_bytes", 0))
    return ModelInfo(
        name=str(section["name"]),
        path=str(path),
        version=str(data["version"]),
        description=str(data["description"]),
        intended_use=str(data.get("intended_use", "")),
        modalities=tuple(
            ModalityInfo(str(m["name"]), bool(m.get("required", True)), tuple(map(str, m.get("aliases", ()))))
            for m in section["modalities"]
        ),
        structures=tuple(structure_info(_structure(entry)) for entry in section["structures"]),
        classes=tuple(str(entry["name"]) for entry in section.get("classes", ())),
        sides=localiser is not None and localiser.get("instances") == "left-right",
        licence=_licence(data),
        size_bytes=size,
        localiser=None if localiser is None else str(localiser["model"]),
        problem=_problem_of_weights(path / WEIGHTS, size),
    )


def _structure(entry: Mapping[str, Any]) -> Structure:
    def code(value: Mapping[str, str]) -> Code:
        return Code(value["scheme"], value["value"], value["meaning"])

    red, green, blue = entry["color"]
    modifier = entry.get("modifier")
    return Structure(
        value=entry["value"],
        key=entry["key"],
        name=entry["name"],
        color=(red, green, blue),
        category=code(entry["category"]),
        type=code(entry["type"]),
        modifier=None if modifier is None else code(modifier),
    )


def _licence(data: Mapping[str, Any]) -> str:
    """The short name that the export notes, such as "CC-BY-SA-4.0"; else all that the metadata says of it."""
    training = data["dianet"].get("training")
    short = training.get("licence") if isinstance(training, dict) else None
    return str(short or data.get("copyright", ""))


def _problem_of_weights(file: Path, size: int) -> str | None:
    try:
        found = file.stat().st_size
    except OSError:
        return f"The model folder {file.parent.parent} is incomplete: {WEIGHTS} is missing."
    if found != size:
        return f"{file} has {found:,} bytes, expected {size:,}. Install or copy the model again."
    return None
