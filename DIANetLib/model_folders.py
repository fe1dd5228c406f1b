# SPDX-License-Identifier: Apache-2.0
"""Where model folders lie and what is where in them; standard library only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from DIANetLib.errors import BundleError
from DIANetLib.hashes import file_sha256

__all__ = [
    "ATLAS",
    "FAMILIARITY",
    "FORMAT_VERSION",
    "METADATA",
    "ONE_PASS",
    "REINSTALL",
    "WEIGHTS",
    "checked_file",
    "first_line",
    "read_document",
    "search_paths",
]

#: Version of the `"dianet"` section of the metadata that this release writes, and the newest that it reads.
#: 1: segmentation alone; 2: classes, reconstruction, atlas; 3: quality of structures, one-pass head,
#: familiarity, the localiser's weight, mirrored samples.
FORMAT_VERSION = 3

METADATA = Path("configs/metadata.json")
WEIGHTS = Path("models/model.safetensors")
ATLAS = Path("models/atlas.safetensors")
ONE_PASS = Path("models/one_pass.safetensors")
FAMILIARITY = Path("models/familiarity.safetensors")

#: What to do about a model whose files are not what they were.
REINSTALL = "Install or copy the model again."


def search_paths() -> tuple[Path, ...]:
    """Folders that hold models: those in `$DIANET_MODELS`, then the ones that came with DIANet."""
    own = [Path(entry) for entry in os.environ.get("DIANET_MODELS", "").split(os.pathsep) if entry]
    package = Path(__file__).resolve().parent
    shipped = [package.parent / "Resources" / "Models", package / "Resources" / "Models"]
    return tuple(dict.fromkeys([*own, *(folder for folder in shipped if folder.is_dir())]))


def checked_file(path: Path, name: Path, size_bytes: int, sha256: str) -> Path:
    """A small file of the folder `path`, compared with what the metadata says of it.

    Args:
        path: The model folder.
        name: The file's place in it.
        size_bytes: Its length.
        sha256: Its hash, hexadecimal.

    Raises:
        BundleError: The file is missing or another one.
    """
    file = path / name
    if not file.is_file():
        raise BundleError(f"The model folder {path} is incomplete: {name} is missing.", remedy=REINSTALL)
    if file.stat().st_size != size_bytes or file_sha256(file) != sha256:
        raise BundleError(
            f"{file} is not the file that the model was published with: its size or SHA-256 differs from the"
            f" one in {METADATA}.",
            remedy=REINSTALL,
        )
    return file


def read_document(path: Path) -> dict[str, Any]:
    """Read `configs/metadata.json` of the folder `path`, as it is: its fields are not looked at.

    Raises:
        BundleError: The file is missing, damaged, foreign or newer than this release.
    """
    file = path / METADATA
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"{path} is not a model folder: {METADATA} is missing.",
            remedy="Give a model folder, or a name that `dianet models` lists.",
        ) from None
    except OSError as error:
        raise BundleError(f"Cannot read {file}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{file} is damaged: it is not valid JSON ({first_line(error)}).", remedy=REINSTALL
        ) from error
    if not isinstance(data, dict) or not isinstance(data.get("dianet"), dict):
        raise BundleError(
            f'{path} is not a DIANet model: its {METADATA} has no section "dianet".',
            remedy="Models of other MONAI bundles run with MONAI's own tools.",
        )
    version = data["dianet"].get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BundleError(
            f"The model in {path} has format version {version}, this DIANet reads up to {FORMAT_VERSION}.",
            remedy="Update DIANet.",
        )
    return data


def first_line(error: Exception) -> str:
    """First line of an error's text, without its full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
