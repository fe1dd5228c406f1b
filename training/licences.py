# SPDX-License-Identifier: Apache-2.0
"""Licences that weights come under, and the notice in a bundle. Under some they stay where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from DIANetLib.errors import ConfigError
from training.config import TrainingConfig

_CREATIVE_COMMONS = "https://creativecommons.org/"


@dataclass(frozen=True)
class Licence:
    """Terms under which weights may be used.

    Attributes:
        name: in words.
        address: where its text is; empty if there is none.
        ships: whether the project may ship the weights.
    """

    name: str
    address: str
    ships: bool = True

    @property
    def text_address(self) -> str:
        """Where the full text is."""
        return f"{self.address}legalcode" if self.address.startswith(_CREATIVE_COMMONS) else self.address


LICENCES: Mapping[str, Licence] = {
    "CC-BY-SA-3.0": Licence(
        "Creative Commons Attribution-ShareAlike 3.0 Unported", f"{_CREATIVE_COMMONS}licenses/by-sa/3.0/"
    ),
    "CC-BY-SA-4.0": Licence(
        "Creative Commons Attribution-ShareAlike 4.0 International", f"{_CREATIVE_COMMONS}licenses/by-sa/4.0/"
    ),
    "CC-BY-4.0": Licence(
        "Creative Commons Attribution 4.0 International", f"{_CREATIVE_COMMONS}licenses/by/4.0/"
    ),
    "CC0-1.0": Licence("CC0 1.0 Universal", f"{_CREATIVE_COMMONS}publicdomain/zero/1.0/"),
    "Apache-2.0": Licence("Apache License, Version 2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
    "CC-BY-NC-4.0": Licence(
        "Creative Commons Attribution-NonCommercial 4.0 International",
        f"{_CREATIVE_COMMONS}licenses/by-nc/4.0/",
        ships=False,
    ),
    "CC-BY-NC-SA-3.0": Licence(
        "Creative Commons Attribution-NonCommercial-ShareAlike 3.0 Unported",
        f"{_CREATIVE_COMMONS}licenses/by-nc-sa/3.0/",
        ships=False,
    ),
    "CC-BY-NC-SA-4.0": Licence(
        "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International",
        f"{_CREATIVE_COMMONS}licenses/by-nc-sa/4.0/",
        ships=False,
    ),
    "not-for-distribution": Licence("Not for distribution", "", ships=False),
}


def licence_of(config: TrainingConfig) -> Licence:
    """The licence that a configuration names.

    Raises:
        ConfigError: if it is not known here.
    """
    if config.licence not in LICENCES:
        raise ConfigError(
            f"licence: expected one of {', '.join(LICENCES)}, got {config.licence!r}.",
            remedy="Choose one that the data's licence allows.",
        )
    return LICENCES[config.licence]


def licence_notice(config: TrainingConfig) -> str:
    """Text of the bundle's LICENSE: name, address, attribution, no warranty.

    Raises:
        ConfigError: if the configuration names a licence that is not known here.
    """
    licence = licence_of(config)
    if licence.address:
        common = licence.address.startswith(_CREATIVE_COMMONS)
        name = f"{licence.name} licence ({config.licence})" if common else licence.name
        terms = f"Licensed under the {name}.\nThe full text is at {licence.text_address}"
    else:
        terms = f"{licence.name}: the data's licence does not say that weights fitted on it may be passed on."
    parts = [
        f"The model {config.name!r}: its weights and the other files in this folder",
        "Copyright (c) The DIANet contributors",
        terms,
        f"Derived from: {config.about.attribution}" if config.about.attribution else "",
        "Changes: a neural network was fitted on the images and labels; none of them is contained in this"
        " folder.",
        "Provided as it is, without warranty of any kind. For research use only, not a medical device.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def shipping_note(config: TrainingConfig) -> str:
    """A sentence for weights that are not to be shipped with the project, else nothing."""
    if licence_of(config).ships:
        return ""
    return "These weights are for experiments where they were fitted: they may not be shipped with DIANet."
