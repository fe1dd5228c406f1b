# SPDX-License-Identifier: Apache-2.0
"""Slides of The Cancer Genome Atlas, as the GDC's transfer tool leaves them; tiles of them are the cases.

    FILE-ID/TCGA-XX-XXXX-01Z-00-DX1.FILE-UUID.svs
    gdc_sample_sheet.YYYY-MM-DD.tsv            (the portal's cart: "Sample Sheet")

A case's class is what a column of the sheet says of its file, by default the project, TCGA-BRCA for example.
A slide's code tells its kind: DX is a diagnostic section of paraffin, TS, MS and BS are frozen ones.

https://docs.gdc.cancer.gov/Data_Portal/Users_Guide/Cart/; https://docs.gdc.cancer.gov/Encyclopedia/pages/TCGA_Barcode/
"""

from __future__ import annotations

import csv
from pathlib import Path

from pydantic import Field

from DIANetLib.errors import InputError
from training.config import DataConfig
from training.datasets.base import Case, SourceCase, options_of, target_of
from training.slides import TileOptions, check_colours, find_tiles, tile_cases, tile_volumes

_NEEDED = ("File ID", "File Name", "Case ID")


class Options(TileOptions):
    """How slides are cut, and which of them are read.

    Attributes:
        column: of the sample sheet, with the class.
        kinds: kinds of slides that are read.
    """

    column: str = "Project ID"
    kinds: tuple[str, ...] = Field(default=("DX",), min_length=1)


def find_cases(folder: Path, config: DataConfig) -> tuple[Case, ...]:
    """List the tiles that show tissue, grouped by patient; every slide is opened for it.

    Raises:
        InputError: if there is no sample sheet or no slide of the kind, a slide is not in the sheet, or its
            class is not one of the configuration's.
    """
    check_colours(config)
    options = options_of(config, Options)
    sheet = _sheet(folder)
    rows = _rows(sheet, (*_NEEDED, options.column))
    cases: list[Case] = []
    slides = sorted(path for path in folder.glob("*/*.svs") if _kind(path) in options.kinds)
    if not slides:
        raise InputError(f"{folder} holds no slide FILE-ID/*.svs of the kind {', '.join(options.kinds)}.")
    for slide in slides:
        row = rows.get((slide.parent.name, slide.name))
        if row is None:
            raise InputError(
                f"{sheet} has no row of the file {slide.parent.name}/{slide.name}.",
                remedy="Download the sample sheet of the same cart.",
            )
        target = target_of(row[options.column], config, slide.name)
        patient = row["Case ID"].split(",")[0].strip()
        cases += tile_cases(slide, find_tiles(slide, options), target=target, group=patient)
    return tuple(cases)


def read_case(case: Case, config: DataConfig) -> SourceCase:
    """A tile, with the class of its slide.

    Raises:
        InputError: if the slide cannot be read.
    """
    return SourceCase(case.name, tile_volumes(case, options_of(config, Options)), target=case.target)


def _kind(slide: Path) -> str:
    """DX of TCGA-XX-XXXX-01Z-00-DX1.UUID.svs; empty where the name is no barcode of a slide."""
    parts = slide.name.partition(".")[0].split("-")
    return parts[5][:2] if len(parts) == 6 else ""


def _sheet(folder: Path) -> Path:
    sheets = sorted(folder.glob("gdc_sample_sheet*.tsv"))
    if len(sheets) != 1:
        raise InputError(
            f"{folder} holds {len(sheets)} sample sheets gdc_sample_sheet*.tsv, expected one.",
            remedy="Get it from the cart of the GDC's portal.",
        )
    return sheets[0]


def _rows(sheet: Path, columns: tuple[str, ...]) -> dict[tuple[str, str], dict[str, str]]:
    with sheet.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file, delimiter="\t")
        missing = [name for name in columns if name not in (table.fieldnames or ())]
        if missing:
            raise InputError(f"{sheet} has no column {', '.join(missing)}.")
        return {(row["File ID"], row["File Name"]): row for row in table}
