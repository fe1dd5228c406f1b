# SPDX-License-Identifier: Apache-2.0
"""What a label value stands for: a name, a colour and coded terms.

Codes are DICOM's coded concepts (PS3.3 section 8.8: scheme, value, meaning); `Structure.terminology_entry`
writes them as 3D Slicer's segmentations carry them. Which structures a model knows is said in its bundle, not
here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from DIANetLib.errors import InputError

Side = Literal["left", "right"]

_KEY = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
# 3D Slicer joins tags with "|", the parts of an entry with "~" and the parts of a code with "^".
_RESERVED = re.compile(r"[~^|\r\n]")
# Slicer's General Anatomy list lacks the hippocampus and other parts of the brain; its copy of DICOM's list
# has them.
_CATEGORY_CONTEXT = "Segmentation category and type - DICOM master list"
_REGION_CONTEXT = "Anatomic codes - DICOM master list"


@dataclass(frozen=True)
class Code:
    """A coded concept.

    Args:
        scheme: Coding scheme designator, `"SCT"` for SNOMED CT.
        value: Code value in that scheme.
        meaning: Human-readable meaning.

    Raises:
        InputError: A part is empty or holds a character that separates codes.
    """

    scheme: str
    value: str
    meaning: str

    def __post_init__(self) -> None:
        for field, text in (("scheme", self.scheme), ("value", self.value), ("meaning", self.meaning)):
            if not text or _RESERVED.search(text):
                raise InputError(
                    f"A code's {field} is {text!r}, expected text without '~', '^', '|' and line breaks."
                )

    def __str__(self) -> str:
        return f"{self.scheme}^{self.value}^{self.meaning}"


ANATOMICAL_STRUCTURE = Code("SCT", "123037004", "Anatomical Structure")
LEFT = Code("SCT", "7771000", "Left")
RIGHT = Code("SCT", "24028007", "Right")


@dataclass(frozen=True)
class Structure:
    """What one value of a labelmap stands for.

    Args:
        value: Value in the labelmap, 1 to 65535 (0 is background).
        key: Name for files and programs: lower case letters, digits, single underscores.
        name: Name for people.
        color: Red, green, blue, each 0 to 255.
        category: Coded category, usually `ANATOMICAL_STRUCTURE`.
        type: Coded type within the category.
        modifier: Coded modifier of the type, usually a side.

    Raises:
        InputError: A field is out of range.
    """

    value: int
    key: str
    name: str
    color: tuple[int, int, int]
    category: Code
    type: Code
    modifier: Code | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "color", tuple(self.color))
        if not 1 <= self.value <= 65535:
            raise InputError(f"Structure {self.key!r} has value {self.value}, expected 1 to 65535.")
        if not _KEY.fullmatch(self.key):
            raise InputError(
                f"Structure key {self.key!r} is not usable in file names: expected lower case letters and"
                " digits with single underscores between them."
            )
        if not self.name.strip() or _RESERVED.search(self.name):
            raise InputError(
                f"Structure {self.key!r} has name {self.name!r}, expected text without '~', '^', '|' and line"
                " breaks."
            )
        if len(self.color) != 3 or not all(0 <= channel <= 255 for channel in self.color):
            raise InputError(
                f"Structure {self.key!r} has colour {self.color}, expected red, green, blue from 0 to 255."
            )

    @property
    def terminology_entry(self) -> str:
        """Tag `TerminologyEntry` of 3D Slicer's segments: context, category, type, modifier; no region."""
        modifier = "^^" if self.modifier is None else str(self.modifier)
        codes = f"{self.category}~{self.type}~{modifier}"
        return f"{_CATEGORY_CONTEXT}~{codes}~{_REGION_CONTEXT}~^^~^^"

    @property
    def side(self) -> Side | None:
        """`"left"` or `"right"` where the modifier says so, else None."""
        if self.modifier is None:
            return None
        sides: dict[str, Side] = {LEFT.value: "left", RIGHT.value: "right"}
        return sides.get(self.modifier.value)

    def on_side(self, side: Side, *, value: int | None = None) -> Structure:
        """Return this structure on one side of the body: key and name get the side, the modifier its code.

        Args:
            side: `"left"` or `"right"`, of the patient.
            value: Value in the labelmap; unchanged when None.
        """
        return replace(
            self,
            value=self.value if value is None else value,
            key=f"{self.key}_{side}",
            name=f"{self.name} {side}",
            modifier=LEFT if side == "left" else RIGHT,
        )


def check_unique(structures: Sequence[Structure]) -> None:
    """Raise unless values and keys of the structures are all different.

    Raises:
        InputError: Two structures share a value or a key.
    """
    for field in ("value", "key"):
        seen: set[object] = set()
        for structure in structures:
            entry = getattr(structure, field)
            if entry in seen:
                raise InputError(f"Two structures have the {field} {entry!r}, expected each to have its own.")
            seen.add(entry)
