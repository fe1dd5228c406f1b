# SPDX-License-Identifier: Apache-2.0
"""What is measured or fitted later goes into a model folder: metadata and card change, the weights do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from DIANetLib.bundle import LoadedModel, load_bundle, read_metadata
from DIANetLib.bundle_export import CARD
from DIANetLib.bundle_schema import BundleMetadata
from DIANetLib.errors import InputError, OutputError
from DIANetLib.model_folders import FORMAT_VERSION, METADATA
from training.card_quality import with_section
from training.summary import write_text

__all__ = ["measured_model", "update_model"]


def measured_model(folder: Path, summary: Mapping[str, Any], what: str, command: str) -> LoadedModel:
    """The model of a folder, if a summary is of its weights.

    Args:
        folder: the model folder.
        summary: with `weights_sha256`.
        what: what the summary tells, with its verb: "the estimate is".
        command: of `python -m training` that makes such a summary.

    Raises:
        InputError: the summary is of other weights.
        BundleError: the folder cannot be used.
    """
    model = load_bundle(folder)
    if summary["weights_sha256"] != model.sha256:
        raise InputError(
            f"{what} of other weights than those in {folder}.",
            remedy=f"Run `python -m training {command}` with this --model.",
        )
    return model


def update_model(
    folder: Path,
    change: Callable[[dict[str, Any]], None],
    section: str,
    part: tuple[Path, bytes] | None = None,
) -> None:
    """Change metadata and card of a model folder, and put a file into it.

    The file comes first, so that the metadata never name one that is not there.

    Args:
        folder: the model folder itself, not a model's name.
        change: of the section "dianet" of the metadata, in place.
        section: of the card, heading included; in place of the one of its heading.
        part: the file's place in the folder, and its content.

    Raises:
        BundleError: the folder cannot be used.
        OutputError: it cannot be written.
    """
    metadata = read_metadata(folder).model_dump(mode="json", by_alias=True)
    change(metadata["dianet"])
    metadata["dianet"]["format_version"] = FORMAT_VERSION  # what was put in may be newer than the folder
    text = BundleMetadata.model_validate(metadata).to_json()
    card = with_section((folder / CARD).read_text(encoding="utf-8"), section)
    if part is not None:
        name, content = part
        _write_bytes(folder / name, content)
    write_text(folder / METADATA, text)
    write_text(folder / CARD, card)


def _write_bytes(file: Path, content: bytes) -> None:
    """Write a file aside and rename it."""
    temporary = file.with_suffix(".tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError as error:
        raise OutputError(f"Cannot write {file}: {error.strerror}.") from error
