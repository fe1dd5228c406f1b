# SPDX-License-Identifier: Apache-2.0
"""CPM-RadPath 2020: MRI and a slide of the same glioma, with its class.

    CPM-RadPath_2020_Training_Data/Radiology/ID/ID_{t1,t1ce,t2,flair}.nii.gz
    CPM-RadPath_2020_Training_Data/Pathology/ID.tiff   (or Pathology/ID/ID.tiff)
    CPM-RadPath_2020_Training_Data/training_data_classification_labels.csv

The table's columns are the ID (CPM_RadPath_2019_ID), `class` and `age_in_days`. Classes: A, lower-grade
astrocytoma with mutant IDH; O, oligodendroglioma; G, glioblastoma. Volumes and slides lie on no common grid,
so that a fit reads one of them; both name the patient as group, so that both are divided alike, and pairs can
be compared. Slides may not say how large their pixels are: training_data_pathology_image_info.csv does, for
`source_um`.

https://miccai.westus2.cloudapp.azure.com/competitions/1
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

from DIANetLib.errors import InputError
from training.config import DataConfig
from training.datasets.base import Case, SourceCase, modality_files, options_of, read_files, target_of
from training.datasets.brats21 import MODALITIES
from training.slides import TileOptions, check_colours, find_tiles, tile_cases, tile_volumes

TABLE = "training_data_classification_labels.csv"
CLASS_COLUMN = "class"


class Options(TileOptions):
    """How slides are cut, and what is read.

    Attributes:
        images: the volumes or the slides.
    """

    images: Literal["radiology", "pathology"] = "radiology"


def find_cases(folder: Path, config: DataConfig) -> tuple[Case, ...]:
    """List the patients' volumes, or the tiles of their slides that show tissue.

    Raises:
        InputError: if there is no table, or a patient in it has no images of that kind, lacks a modality, or
            is of a class that the configuration does not have.
    """
    tables = sorted(folder.rglob(TABLE))
    if not tables:
        raise InputError(
            f"{folder} holds no table {TABLE}.",
            remedy="Point --data to the training data of CPM-RadPath 2020.",
        )
    root, options = tables[0].parent, options_of(config, Options)
    if options.images == "pathology":
        check_colours(config)
    cases: list[Case] = []
    for name, called in _classes(tables[0]).items():
        target = target_of(called, config, f"patient {name}")
        if options.images == "pathology":
            slide = _slide(root / "Pathology", name)
            cases += tile_cases(slide, find_tiles(slide, options), target=target, group=name)
            continue
        volumes = root / "Radiology" / name
        files = {ending: volumes / f"{name}_{ending}.nii.gz" for ending in MODALITIES}
        there = {ending: path for ending, path in files.items() if path.is_file()}
        cases.append(Case(name, modality_files(config, there, name), target=target, group=name))
    return tuple(cases)


def read_case(case: Case, config: DataConfig) -> SourceCase:
    """A patient's volumes, or a tile of the slide, with the class of the patient.

    Raises:
        InputError: if a file cannot be read.
    """
    options = options_of(config, Options)
    if options.images == "radiology":
        return read_files(case, config)
    return SourceCase(case.name, tile_volumes(case, options), target=case.target)


def _classes(table: Path) -> dict[str, str]:
    """The class of each patient; the first column is the patient's name."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if CLASS_COLUMN not in (rows.fieldnames or ()):
            raise InputError(f"{table}: expected a column {CLASS_COLUMN}, got {rows.fieldnames}.")
        key = (rows.fieldnames or [""])[0]
        return {row[key]: row[CLASS_COLUMN] for row in rows}


def _slide(folder: Path, name: str) -> Path:
    for ending in (".tiff", ".tif"):
        for path in (folder / f"{name}{ending}", folder / name / f"{name}{ending}"):
            if path.is_file():
                return path
    raise InputError(f"{folder} holds no slide {name}.tiff of the patient {name}.")
