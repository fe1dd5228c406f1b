# SPDX-License-Identifier: Apache-2.0
"""CAMELYON17: slides of lymph nodes, of which some are outlined; tiles of them are the cases.

    training/center_0/patient_004_node_4.tif   (or center_0/patient_004/…, as the archives unpack)
    training/lesion_annotations/patient_004_node_4.xml
    training/stages.csv                        (stage_labels.csv in older copies)

The mirror of AWS, images/ and annotations/ in one folder each, is read as well. The table has the columns
`patient` and `stage`: patient_004_node_4.tif is negative, itc, micro or macro, and patient_004.zip has a pN
stage. There are twenty patients per centre, in order. Tiles of negative slides are known to show no lesion;
tiles of others that nobody outlined have no labels, and are left out unless classes are wanted.

Bandi et al., IEEE TMI 38, 550 (2019), https://doi.org/10.1109/TMI.2018.2867350; CC0.
"""

from __future__ import annotations

import csv
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from DIANetLib.errors import InputError
from DIANetLib.volume import Volume
from training.annotations import Lesions, read_lesions
from training.config import DataConfig
from training.datasets.base import Case, SourceCase, map_labels, options_of, target_of
from training.slides import Tile, TileOptions, check_colours, find_tiles, tile_cases, tile_volumes

TABLES = ("stages.csv", "stage_labels.csv")
NEGATIVE = "negative"
PATIENTS_PER_CENTRE = 20
_SLIDE = re.compile(r"(patient_(\d{3}))_node_\d")


class Options(TileOptions):
    """How slides are cut and what they are called.

    Attributes:
        label: whether a case's class is that of its "node" (slide) or the stage of its "patient".
        group: what folds never divide; with "centre" and five folds each leaves a hospital out.
    """

    label: Literal["node", "patient"] = "node"
    group: Literal["patient", "centre"] = "patient"


def find_cases(folder: Path, config: DataConfig) -> tuple[Case, ...]:
    """List the tiles that show tissue; every slide is opened for it.

    Raises:
        InputError: if there is no slide or no table, a slide is not in it, or nothing is outlined.
    """
    check_colours(config)
    options = options_of(config, Options)
    slides = sorted(path for path in folder.rglob("patient_*.tif") if _SLIDE.fullmatch(path.stem))
    if not slides:
        raise InputError(
            f"{folder} holds no slide patient_NNN_node_N.tif.",
            remedy="Point --data to the unpacked training data of CAMELYON17.",
        )
    table = next((path for name in TABLES for path in sorted(folder.rglob(name))), None)
    if table is None:
        raise InputError(f"{folder} holds no table {TABLES[0]} of the slides' stages.")
    stages = read_stages(table)
    outlines = {path.stem: path for path in folder.rglob("patient_*.xml")}
    cases: list[Case] = []
    for slide in slides:
        patient, number = _SLIDE.fullmatch(slide.stem).groups()  # type: ignore[union-attr]
        stage = _stage(stages, slide.name, table)
        labels = table if stage == NEGATIVE else outlines.get(slide.stem)
        labels = labels if config.structures else None
        if config.structures and labels is None and not config.targets:
            continue
        called = stage if options.label == "node" else _stage(stages, f"{patient}.zip", table)
        lesions = None if labels is None or labels == table else read_lesions(labels)
        cases += tile_cases(
            slide,
            find_tiles(slide, options, lesions),
            labels=labels,
            target=target_of(called, config, slide.name),
            group=patient if options.group == "patient" else f"centre_{int(number) // PATIENTS_PER_CENTRE}",
        )
    if not cases or (config.structures and all(case.labels in (None, table) for case in cases)):
        raise InputError(
            f"{folder} holds no annotation patient_NNN_node_N.xml of any slide with a lesion.",
            remedy="Unpack lesion_annotations.zip beside the slides.",
        )
    return tuple(cases)


def read_case(case: Case, config: DataConfig) -> SourceCase:
    """A tile with the lesions that are outlined in it, as label value 1.

    Raises:
        InputError: if the slide or its outlines cannot be read.
    """
    options = options_of(config, Options)
    volumes = tile_volumes(case, options)
    if case.labels is None:
        return SourceCase(case.name, volumes, target=case.target)
    if case.labels.suffix == ".csv":  # the table says that there is no lesion
        values = np.zeros((options.tile, options.tile), np.uint8)
    else:
        tile = Tile(*case.place)
        lesions = _lesions(case.labels)
        values = lesions.mask((tile.x, tile.y), (tile.side, tile.side), (options.tile, options.tile))
    labels: Volume = volumes[0].with_array(map_labels(values[None], config), name="labels")
    return SourceCase(case.name, volumes, labels, case.target)


def read_stages(table: Path) -> dict[str, str]:
    """What the table says of each slide and patient.

    Raises:
        InputError: if it has no columns `patient` and `stage`.
    """
    with table.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"patient", "stage"} <= set(rows.fieldnames or ()):
            raise InputError(f"{table}: expected the columns patient and stage, got {rows.fieldnames}.")
        return {row["patient"]: row["stage"] for row in rows}


def _stage(stages: dict[str, str], name: str, table: Path) -> str:
    if name not in stages:
        raise InputError(f"{table} does not say the stage of {name}.")
    return stages[name]


@lru_cache(maxsize=4)
def _lesions(path: Path) -> Lesions:
    """The outlines of a slide; kept for its other tiles."""
    return read_lesions(path)
