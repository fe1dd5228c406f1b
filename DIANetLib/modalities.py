# SPDX-License-Identifier: Apache-2.0
"""Which image is which of a model's modalities, equation (5), where some of them may be missing.

Standard library only: a program asks before anything is read.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from DIANetLib.errors import InputError

__all__ = ["Assignment", "Modality", "assign", "missing_sentence", "sequence_of"]

# Words that name a sequence; what is looked for first wins, as a FLAIR is often called "T2 FLAIR".
_WORDS: Mapping[str, frozenset[str]] = {
    "CT": frozenset({"ct", "cta", "ncct", "cect"}),
    "FLAIR": frozenset({"flair"}),
    "PD": frozenset({"pd", "pdw"}),
    "T1C": frozenset(
        {"t1c", "t1ce", "t1gd", "t1post", "t1contrast", "t1wce", "t1cw", "t1km", "cet1", "cet1w", "t1wpost"}
    ),
    "T2": frozenset({"t2", "t2w", "t2weighted"}),
    "T1": frozenset({"t1", "t1w", "t1n", "t1weighted", "mprage", "mp2rage", "spgr", "bravo", "fspgr"}),
}
_CONTRAST = frozenset({"ce", "c", "gd", "gad", "gado", "post", "contrast", "km", "postcontrast"})


class Modality(Protocol):
    """One input of a model; `ModalitySpec` of a model folder and `ModalityInfo` of the worker are both."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def required(self) -> bool:
        """Whether the model needs it."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names under which it is accepted."""


@dataclass(frozen=True)
class Assignment:
    """Which image is which modality.

    Attributes:
        places: Per modality of the model the index of its image, or None where it is missing.
        guessed: The file's name per modality that it was told by, where the order alone would say otherwise.
    """

    places: tuple[int | None, ...]
    guessed: Mapping[str, str]

    @property
    def available(self) -> tuple[bool, ...]:
        """Per modality of the model whether there is an image."""
        return tuple(place is not None for place in self.places)


def assign(
    names: Sequence[str | None],
    modalities: Sequence[Modality],
    model: str,
    *,
    files: Sequence[str] | None = None,
) -> Assignment:
    """Find the place of each image.

    An image goes by its name. Images without one go by their files' names where all of these are plain, each
    of another modality. Otherwise they are taken in the model's order, if there are as many as the model has
    modalities left, or as many as it needs.

    Args:
        names: Per image the name of its modality, None where it has none.
        modalities: Those of the model.
        model: Name of the model, for messages.
        files: Per image the name of its file, to guess by; None not to guess.

    Raises:
        InputError: A name is unknown or there twice, there are too many images or none, one that the model
            needs is missing, or it cannot be told which one an image is.
    """
    wanted = ", ".join(modality.name for modality in modalities)
    places: dict[int, int] = {}
    for image, name in enumerate(names):
        if name is None:
            continue
        place = _place_of(name, modalities)
        if place is None:
            raise InputError(f"The model {model!r} has no modality {name!r}; it has {wanted}.")
        if place in places:
            raise InputError(f"The modality {name!r} was given twice; model {model!r} reads {wanted}.")
        places[place] = image
    unnamed = [image for image, name in enumerate(names) if name is None]
    least = max(1, sum(modality.required for modality in modalities))
    if not least <= len(names) <= len(modalities):
        raise _wrong_set(modalities, places, model, _texts(names, files))
    left = [place for place in range(len(modalities)) if place not in places]
    guessed = {} if files is None else _guessed({i: files[i] for i in unnamed}, modalities, left)
    if guessed:
        places.update(guessed)
    elif unnamed:
        needed = [place for place in left if modalities[place].required]
        if len(unnamed) not in (len(left), len(needed)):
            which = _and([text for text, name in zip(_texts(names, files), names, strict=True) if not name])
            raise InputError(
                f"{_expected(modalities, model)}, got {len(names)}, and it cannot be told which one"
                f" {which or 'one of them'} is.",
                remedy="Name the images in their order with --modalities.",
            )
        places.update(zip(left if len(unnamed) == len(left) else needed, unnamed, strict=True))
    if any(modality.required and place not in places for place, modality in enumerate(modalities)):
        raise _wrong_set(modalities, places, model, _texts(names, files))
    in_order = [places.get(place) for place in range(len(modalities))] == list(range(len(modalities)))
    told = {} if files is None or in_order else {p: files[image] for p, image in guessed.items()}
    return Assignment(
        tuple(places.get(place) for place in range(len(modalities))),
        {modalities[place].name: file for place, file in sorted(told.items())},
    )


def missing_sentence(modalities: Sequence[Modality], available: Sequence[bool], model: str) -> str | None:
    """A sentence for the user where modalities are missing; None where all are there."""
    missing = [m.name for m, there in zip(modalities, available, strict=True) if not there]
    if not missing:
        return None
    given = [m.name for m, there in zip(modalities, available, strict=True) if there]
    were = "was" if len(missing) == 1 else "were"
    return (
        f"{_and(missing)} {were} not given: model '{model}' read {_and(given)} alone and is less sure, and"
        " less often right, than with all of its modalities."
    )


def sequence_of(text: str) -> str | None:
    """Which kind of image whole words of a name speak of: a key such as `"FLAIR"`, or None."""
    # "T1+C" and "T1-weighted" are written with and without what is between.
    words = re.findall(r"[a-z0-9]+", text.lower())
    pairs = {first + second for first, second in itertools.pairwise(words)}
    for kind, names in _WORDS.items():
        if names & (set(words) | (pairs if kind == "T1C" else set())):
            return kind
        if kind == "T1C" and _CONTRAST & set(words) and _WORDS["T1"] & set(words):
            return kind
    return None


def _place_of(name: str, modalities: Sequence[Modality]) -> int | None:
    for place, modality in enumerate(modalities):
        if name.casefold() in {text.casefold() for text in (modality.name, *modality.aliases)}:
            return place
    return None


def _guessed(files: Mapping[int, str], modalities: Sequence[Modality], left: Sequence[int]) -> dict[int, int]:
    """Image by place, where each file's name speaks of one place alone, and of another each; else nothing."""
    if len(modalities) < 2:
        return {}
    found: dict[int, int] = {}
    for image, file in files.items():
        places = [place for place in left if _speaks_of(file, modalities[place])]
        if len(places) != 1 or places[0] in found:
            return {}
        found[places[0]] = image
    return found


def _speaks_of(file: str, modality: Modality) -> bool:
    names = (modality.name, *modality.aliases)
    words = set(re.findall(r"[a-z0-9]+", file.lower()))
    kind = sequence_of(file)
    kinds = {sequence_of(name) for name in names} - {None}
    return kind in kinds if kinds else any(name.casefold() in words for name in names)


def _expected(modalities: Sequence[Modality], model: str) -> str:
    names = ", ".join(modality.name for modality in modalities)
    needed = [modality.name for modality in modalities if modality.required]
    if len(needed) == len(modalities):
        noun = "modality" if len(modalities) == 1 else "modalities"
        return f"expected {len(modalities)} {noun} ({names}) for model {model!r}"
    of_which = f", {_and(needed)} among them," if needed else ""
    return f"expected 1 to {len(modalities)} modalities of {names}{of_which} for model {model!r}"


def _wrong_set(
    modalities: Sequence[Modality], places: Mapping[int, int], model: str, given: Sequence[str]
) -> InputError:
    missing = [m.name for place, m in enumerate(modalities) if m.required and place not in places]
    got = f"{len(given)} ({', '.join(given)})" if all(given) and given else f"{len(given)}"
    fewer = missing and places and len(places) == len(given)
    more = f"Give {_and(missing)} as well" if fewer else "Give one image per modality"
    return InputError(
        f"{_expected(modalities, model)}, got {got}.", remedy=f"{more}, or choose another model."
    )


def _texts(names: Sequence[str | None], files: Sequence[str] | None) -> list[str]:
    """What each image is called: by its modality, else by its file, else nothing."""
    return [name or (files[image] if files else "") for image, name in enumerate(names)]


def _and(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
