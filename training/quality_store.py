# SPDX-License-Identifier: Apache-2.0
"""An estimate of quality into a model folder that is there: metadata and card change, the weights do not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from DIANetLib.bundle import load_bundle, read_metadata
from DIANetLib.bundle_export import CARD
from DIANetLib.bundle_schema import BundleMetadata
from DIANetLib.errors import InputError
from DIANetLib.model_folders import METADATA
from training.card_quality import quality_section, with_quality
from training.summary import write_text


def quality_figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What of a summary travels in a bundle's metadata."""
    judged = summary["held_out_judged"]
    return {
        "in_distribution": judged["in_distribution"],
        "series": judged["series"],
        "kinds": judged["kinds"],
        "inner_cases": len(summary["inner"]),
        "held_out_cases": len(summary["held_out"]),
        "corrupted_held_out": summary["corrupted_held_out"],
    }


def store_quality(folder: Path, summary: Mapping[str, Any]) -> None:
    """Put the estimate of a summary into a model folder.

    Args:
        folder: the model folder whose weights were judged.
        summary: what `training.quality.quality` gave.

    Raises:
        InputError: the summary is of other weights.
        BundleError: the folder cannot be used.
        OutputError: it cannot be written.
    """
    model = load_bundle(folder)
    if summary["weights_sha256"] != model.sha256:
        raise InputError(
            f"the estimate is of other weights than those in {folder}.",
            remedy="Run `python -m training quality` with this --model.",
        )
    metadata = read_metadata(model.path).model_dump(mode="json", by_alias=True)
    metadata["dianet"]["quality"] = summary["quality"]
    metadata["dianet"]["figures"]["quality"] = quality_figures(summary)
    text = BundleMetadata.model_validate(metadata).to_json()
    card = with_quality((model.path / CARD).read_text(encoding="utf-8"), quality_section(summary))
    write_text(model.path / METADATA, text)
    write_text(model.path / CARD, card)
