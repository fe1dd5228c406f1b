# SPDX-License-Identifier: Apache-2.0
"""What a model's own images look like, put into its folder: a file, metadata and card; not the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from DIANetLib.acwi.familiarity import FamiliarityModel
from DIANetLib.bundle_familiarity import familiarity_file
from DIANetLib.model_folders import FAMILIARITY
from training.card_familiarity import familiarity_section
from training.model_folder import measured_model, update_model

_FIGURES = ("rates", "auroc", "auroc_same_images", "nothing_found", "bad_dice")


def store_familiarity(folder: Path, model: FamiliarityModel, summary: Mapping[str, Any]) -> None:
    """Put a model of familiarity into the model folder whose encoder it was fitted with.

    Args:
        folder: the model folder.
        model: what was fitted.
        summary: what `training.familiarity.familiarity` gave with it.

    Raises:
        InputError: the summary is of other weights.
        BundleError: the folder cannot be used.
        OutputError: it cannot be written.
    """
    bundle = measured_model(folder, summary, "the familiarity is that", "familiarity")
    content, spec = familiarity_file(model, summary["cases"])

    def change(section: dict[str, Any]) -> None:
        section["familiarity"] = spec.model_dump(mode="json")
        section["figures"]["familiarity"] = {name: summary[name] for name in _FIGURES}

    update_model(bundle.path, change, familiarity_section(summary), (FAMILIARITY, content))
