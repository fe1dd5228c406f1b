# SPDX-License-Identifier: Apache-2.0
"""What a model's own images look like, put into its folder: a file, metadata and card; not the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from DIANetLib.acwi.familiarity import FamiliarityModel
from DIANetLib.bundle import load_bundle, read_metadata
from DIANetLib.bundle_export import CARD
from DIANetLib.bundle_familiarity import familiarity_file
from DIANetLib.bundle_schema import BundleMetadata
from DIANetLib.errors import InputError, OutputError
from DIANetLib.model_folders import FAMILIARITY, METADATA
from training.card_familiarity import familiarity_section
from training.card_quality import with_section
from training.summary import write_text

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
    bundle = load_bundle(folder)
    if summary["weights_sha256"] != bundle.sha256:
        raise InputError(
            f"the familiarity is that of other weights than those in {folder}.",
            remedy="Run `python -m training familiarity` with this --model.",
        )
    content, spec = familiarity_file(model, summary["cases"])
    metadata = read_metadata(bundle.path).model_dump(mode="json", by_alias=True)
    metadata["dianet"]["familiarity"] = spec.model_dump(mode="json")
    metadata["dianet"]["figures"]["familiarity"] = {name: summary[name] for name in _FIGURES}
    text = BundleMetadata.model_validate(metadata).to_json()
    section = familiarity_section(summary)
    card = with_section((bundle.path / CARD).read_text(encoding="utf-8"), section)
    file = bundle.path / FAMILIARITY
    temporary = file.with_suffix(".tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError as error:
        raise OutputError(f"Cannot write {file}: {error.strerror}.") from error
    write_text(bundle.path / METADATA, text)
    write_text(bundle.path / CARD, card)
