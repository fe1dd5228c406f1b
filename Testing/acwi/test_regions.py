# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from DIANetLib.acwi.regions import (
    SCHEMA,
    SCHEMA_VERSION,
    Region,
    regions_from_csv,
    regions_from_json,
    regions_to_csv,
    regions_to_json,
)
from DIANetLib.acwi.worklist import Worklist
from DIANetLib.errors import InputError

SCHEMA_FILE = Path(__file__).resolve().parents[2] / "docs" / "schemas" / "regions.schema.json"
DOCUMENT = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
TYPES = {"object": dict, "array": list, "string": str, "number": (int, float), "integer": int}


def faults(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """What JSON Schema finds wrong with a value; knows the keywords that the file uses, and no others."""
    schema = {name: rule for name, rule in schema.items() if name not in ("$schema", "$id", "$defs", "title")}
    found: list[str] = []
    for name, rule in schema.items():
        match name:
            case "description":
                good = True
            case "$ref":
                found += faults(value, DOCUMENT["$defs"][rule.removeprefix("#/$defs/")], where)
                good = True
            case "type":
                good = isinstance(value, TYPES[rule]) and not isinstance(value, bool)
            case "const":
                good = value == rule
            case "enum":
                good = value in rule
            case "required":
                good = set(rule) <= set(value)
            case "properties":
                for key in set(rule) & set(value):
                    found += faults(value[key], rule[key], f"{where}.{key}")
                good = True
            case "additionalProperties":
                good = rule or set(value) <= set(schema["properties"])
            case "items":
                found += [f for n, item in enumerate(value) for f in faults(item, rule, f"{where}[{n}]")]
                good = True
            case "minItems":
                good = len(value) >= rule
            case "maxItems":
                good = len(value) <= rule
            case "minLength":
                good = len(value) >= rule
            case "minimum":
                good = value >= rule
            case "maximum":
                good = value <= rule
            case "exclusiveMinimum":
                good = value > rule
            case "pattern":
                good = re.search(rule, value) is not None
            case _:
                raise AssertionError(f"the schema's keyword {name} is not known here")
        found += [] if good else [f"{where}: {name}"]
    return found


def worklist() -> Worklist:
    point = (1.0, -2.5, 3.0)
    regions = [
        Region(1, ("head", "tail"), point, point, point, 27.0, 9.5, 0.5),
        Region(2, ("head",), point, point, point, 12.0, 4.0, 0.4),
        Region(3, (), point, point, point, 12.0, 3.0, 1.0),
    ]
    when = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)
    return (
        Worklist(tuple(regions))
        .with_state(1, "corrected", reviewer="Ada", when=when)
        .with_state(3, "skipped")
    )


def written() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(regions_to_json(worklist().regions))
    return document


def test_what_is_written_is_what_the_schema_describes() -> None:
    assert faults(written(), DOCUMENT) == []
    assert faults(json.loads(regions_to_json(())), DOCUMENT) == []


def test_the_schema_names_every_entry_and_the_present_version() -> None:
    region = DOCUMENT["$defs"]["region"]
    assert list(region["properties"]) == [field.name for field in fields(Region)]
    assert DOCUMENT["properties"]["schema"]["const"] == SCHEMA
    assert DOCUMENT["properties"]["schema_version"]["maximum"] == SCHEMA_VERSION


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"state": "forgotten"}, "$.regions[0].state: enum"),
        ({"changed": "yesterday"}, "$.regions[0].changed: pattern"),
        ({"changed": "2026-03-04T12:30:00"}, "$.regions[0].changed: pattern"),
        ({"lo": [1.0, 2.0]}, "$.regions[0].lo: minItems"),
        ({"structures": ["a", "b", "c"]}, "$.regions[0].structures: maxItems"),
        ({"peak": 1.5}, "$.regions[0].peak: maximum"),
        ({"colour": "red"}, "$.regions[0]: additionalProperties"),
    ],
)
def test_the_schema_tells_what_is_wrong(changes: dict[str, Any], fault: str) -> None:
    document = written()
    document["regions"][0].update(changes)
    assert faults(document, DOCUMENT) == [fault]


def test_lists_of_version_1_are_read_and_fit_the_schema_too() -> None:
    document = written()
    document["schema_version"] = 1
    for row in document["regions"]:
        del row["changed"], row["reviewer"]
    assert faults(document, DOCUMENT) == []
    regions = regions_from_json(json.dumps(document))
    assert [(region.state, region.changed, region.reviewer) for region in regions] == [
        ("corrected", "", ""),
        ("open", "", ""),
        ("skipped", "", ""),
    ]
    header, *rows = regions_to_csv(regions).splitlines()
    table = [header.removesuffix(",changed,reviewer"), *("1" + row[1:].removesuffix(",,") for row in rows)]
    assert regions_from_csv("\n".join(table)) == regions


def test_a_reviewers_name_may_hold_commas_quotes_and_other_letters() -> None:
    regions = worklist().with_state(2, "accepted", reviewer='Zoë "Z", M.D.').regions
    assert regions_from_csv(regions_to_csv(regions)) == regions
    assert regions_from_json(regions_to_json(regions)) == regions


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"changed": "yesterday"}, "cannot be read: Invalid isoformat string"),
        ({"changed": "2026-03-04T12:30:00"}, "the time 2026-03-04T12:30:00 has no offset from UTC"),
        ({"rank": 0}, "the rank is 0, expected 1 or more"),
        ({"peak": float("nan")}, "a number is not finite"),
        ({"centre": [0.0, float("inf"), 0.0]}, "a number is not finite"),
    ],
)
def test_times_and_numbers_that_mean_nothing_get_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    document = written()
    document["regions"][0].update(changes)
    with pytest.raises(InputError, match=sentence):
        regions_from_json(json.dumps(document))
