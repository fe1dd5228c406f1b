# SPDX-License-Identifier: Apache-2.0
"""What a result says of itself, as JSON in an attribute of its segmentation node, where a scene keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from DIANetLib.errors import InputError
from DIANetLib.worker.protocol import CodeInfo, Segmented, StructureInfo, StructureSummary

__all__ = ["SCHEMA", "SCHEMA_VERSION", "ResultRecord", "attributeText", "readRecord", "recordText"]

SCHEMA = "dianet.scene-result"
SCHEMA_VERSION = 2  # 2 added modalities, and intervals of the expected Dice


@dataclass(frozen=True)
class ResultRecord:
    """How a result came about, and its numbers.

    Attributes:
        id: Id of the request that made it; the worker knows it by that.
        model: Name of the model.
        modelVersion: Its version.
        modelSha256: Hash of its weights.
        inputs: Names of the input volumes, in the model's order.
        modalities: What the model took each input for; empty where an earlier version kept none.
        structures: What was looked for.
        summaries: Numbers per structure.
        warnings: Sentences for the user.
        device: Where the network ran.
        timings: Seconds per stage.
        samples: Stochastic passes; 0 for one pass.
        seed: Of the stochastic passes.
        created: When, ISO 8601 with the offset from UTC.
        networkLayers: Layers of the network that Grad-CAM can be taken at.
        paths: Names of the paths through the network whose numbers the layer "path" shows.
        uncertainty: What the uncertainty maps come from, as `Segmented.uncertainty`.
        familiarity: Whether the image is like what the model was fitted on, in words; empty where not known.
        layers: Ids (`LayerKey.id`) of the layers that have a node; not in the JSON, the scene knows them.
    """

    id: str
    model: str
    modelVersion: str = ""
    modelSha256: str = ""
    inputs: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    structures: tuple[StructureInfo, ...] = ()
    summaries: tuple[StructureSummary, ...] = ()
    warnings: tuple[str, ...] = ()
    device: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    samples: int = 0
    seed: int = 0
    created: str = ""
    networkLayers: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    uncertainty: str = "samples"
    familiarity: str = ""
    layers: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        requestId: str,
        payload: Segmented,
        inputs: tuple[str, ...],
        created: str,
        modalities: tuple[str, ...] = (),
    ) -> ResultRecord:
        """The record of what a worker gave."""
        return cls(
            id=requestId,
            model=payload.model,
            modelVersion=payload.model_version,
            modelSha256=payload.model_sha256,
            inputs=inputs,
            modalities=modalities,
            structures=payload.structures,
            summaries=payload.summaries,
            warnings=payload.warnings,
            device=payload.device,
            timings=dict(payload.timings),
            samples=payload.samples,
            seed=payload.seed,
            created=created,
            networkLayers=payload.layers,
            paths=payload.paths,
            uncertainty=payload.uncertainty,
            familiarity=payload.familiarity,
        )

    def structure(self, key: str) -> StructureInfo | None:
        """The structure of that key; None if there is none."""
        return next((structure for structure in self.structures if structure.key == key), None)


def recordText(record: ResultRecord) -> str:
    """The record as text for an attribute of a node."""
    document = {"schema": SCHEMA, "version": SCHEMA_VERSION, **asdict(record)}
    del document["layers"]
    return attributeText(document)


def attributeText(document: Any) -> str:
    """JSON of a document, in characters that every version of MRML keeps in attributes of its files."""
    text = json.dumps(document, ensure_ascii=True, separators=(",", ":"))
    # Outside of strings JSON has none of these; MRML separates and escapes with them.
    for character in ";%<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def readRecord(text: str, layers: tuple[str, ...] = ()) -> ResultRecord:
    """Read what `recordText` wrote.

    Raises:
        InputError: It is something else, or of a newer version.
    """
    try:
        document = json.loads(text)
        if document.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        version = document.pop("version")
        if version > SCHEMA_VERSION:
            raise InputError(
                f"The result was saved by a newer DIANet: format {version}, expected {SCHEMA_VERSION}.",
                remedy="Update the DIANet extension.",
            )
        document["structures"] = tuple(_structure(entry) for entry in document["structures"])
        document["summaries"] = tuple(StructureSummary(**entry) for entry in document["summaries"])
        for name in ("inputs", "modalities", "warnings", "networkLayers", "paths"):
            document[name] = tuple(document.get(name, ()))  # earlier versions lack some
        return ResultRecord(**document, layers=layers)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"The record of a result cannot be read: {error}.") from error


def _structure(entry: dict[str, Any]) -> StructureInfo:
    codes = {name: CodeInfo(**entry[name]) for name in ("category", "type")}
    modifier = None if entry["modifier"] is None else CodeInfo(**entry["modifier"])
    red, green, blue = entry["color"]
    return StructureInfo(**{**entry, **codes, "modifier": modifier, "color": (red, green, blue)})
