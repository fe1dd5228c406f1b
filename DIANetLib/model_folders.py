# SPDX-License-Identifier: Apache-2.0
"""Where model folders lie and what is where in them; standard library only."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["FORMAT_VERSION", "METADATA", "WEIGHTS", "search_paths"]

#: Version of the `"dianet"` section of the metadata that this release writes, and the newest that it reads.
FORMAT_VERSION = 1

METADATA = Path("configs/metadata.json")
WEIGHTS = Path("models/model.safetensors")


def search_paths() -> tuple[Path, ...]:
    """Folders that hold models: those in `$DIANET_MODELS`, then the ones that came with DIANet."""
    own = [Path(entry) for entry in os.environ.get("DIANET_MODELS", "").split(os.pathsep) if entry]
    package = Path(__file__).resolve().parent
    shipped = [package.parent / "Resources" / "Models", package / "Resources" / "Models"]
    return tuple(dict.fromkeys([*own, *(folder for folder in shipped if folder.is_dir())]))
