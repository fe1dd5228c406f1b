# SPDX-License-Identifier: Apache-2.0
"""Writing model folders: metadata around DIANet's section, weights, atlas."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from DIANetLib.bundle_inference import inference_config
from DIANetLib.bundle_schema import AtlasSpec, BundleMetadata, DianetSection
from DIANetLib.bundle_weights import ATLAS_KEY, check_architecture, check_finite, parsed
from DIANetLib.errors import OutputError
from DIANetLib.model_folders import ATLAS, FORMAT_VERSION, METADATA, WEIGHTS

if TYPE_CHECKING:
    import torch

INFERENCE = Path("configs/inference.json")
CARD = Path("docs/README.md")


def make_metadata(
    section: DianetSection,
    *,
    version: str,
    task: str,
    description: str,
    authors: str = "The DIANet contributors",
    copyright: str = "Copyright (c) The DIANet contributors",
    changelog: Mapping[str, str] | None = None,
    data_source: str = "",
    references: Sequence[str] = (),
) -> BundleMetadata:
    """Fill in MONAI's keys around DIANet's section: versions of this environment and the tensors' formats.

    Args:
        section: What DIANet needs; its hash and size are filled in by `save_bundle`.
        version: Version of the model.
        task: What it does, in a few words.
        description: What it does, in a sentence or more.
        authors: Who made it.
        copyright: Whose it is.
        changelog: What is new, per version.
        data_source: What it was fitted on, and where that can be had.
        references: Publications.
    """
    from importlib.metadata import version as installed

    return BundleMetadata(
        version=version,
        changelog=dict(changelog or {version: "first release"}),
        monai_version=installed("monai"),
        pytorch_version=installed("torch").split("+")[0],
        numpy_version=installed("numpy"),
        required_packages_version={
            name: installed(name) for name in ("safetensors", "pydantic", "SimpleITK")
        },
        task=task,
        description=description,
        authors=authors,
        copyright=copyright,
        intended_use="For research use only, not a medical device.",
        data_source=data_source,
        references=tuple(references),
        network_data_format=_data_format(section),
        dianet=section,
    )


def save_bundle(
    directory: Path,
    metadata: BundleMetadata,
    state: Mapping[str, torch.Tensor],
    *,
    card: str,
    licence: str,
    dtype: Literal["float16", "float32"] = "float16",
    overwrite: bool = False,
    atlas: torch.Tensor | None = None,
    atlas_spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Path:
    """Write the model folder `directory`; it appears complete or not at all.

    Args:
        directory: The folder; its name is the model's name.
        metadata: See `make_metadata`; hash and size of the weights are filled in here.
        state: State dictionary of the network.
        card: Text of the model card, Markdown.
        licence: Text of the model's licence.
        dtype: How the weights are stored. float16 halves the file; they are computed with as float32.
        overwrite: Replace a folder that is there.
        atlas: Probability of each class at each place, (K, *A), background included; stored as float16.
        atlas_spacing_mm: Voxel size (i, j, k) of the atlas, mm.

    Returns:
        The folder.

    Raises:
        BundleError: The weights don't fit `metadata`, aren't finite or don't fit into `dtype`; or the atlas
            isn't finite.
        OutputError: The folder is there already or cannot be written.
    """
    import torch
    from safetensors.torch import save

    section = metadata.dianet
    if directory.name != section.name:
        raise OutputError(f"The folder of the model {section.name!r} is called {directory.name!r}.")
    if directory.exists() and not overwrite:
        raise OutputError(f"The folder {directory} is there already.", remedy="Remove it or choose another.")
    kept = getattr(torch, dtype)
    stored = {
        key: (value.to(kept) if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in state.items()
    }
    check_finite(stored, f"The weights of {section.name!r} as {dtype}")
    check_architecture(
        parsed(section.network_config, directory, "dianet.network"),
        {key: tuple(value.shape) for key, value in stored.items()},
        directory,
    )
    weights = save(stored, metadata={"format": "pt"})
    section = section.model_copy(
        update={
            "format_version": FORMAT_VERSION,
            "sha256": hashlib.sha256(weights).hexdigest(),
            "size_bytes": len(weights),
            # Both belong to the weights that they were fitted behind.
            "one_pass": None,
            "familiarity": None,
        }
    )
    kept_atlas = None if atlas is None else atlas.to(torch.float16).detach().cpu().contiguous()
    if kept_atlas is None:
        section = section.model_copy(update={"atlas": None})
    else:
        check_finite({ATLAS_KEY: kept_atlas}, f"The values of the atlas of {section.name!r}")
        stored_atlas = save({ATLAS_KEY: kept_atlas})
        spec = AtlasSpec(
            spacing_mm=atlas_spacing_mm,
            sha256=hashlib.sha256(stored_atlas).hexdigest(),
            size_bytes=len(stored_atlas),
        )
        section = section.model_copy(update={"atlas": spec})
    metadata = metadata.model_copy(update={"dianet": section})
    temporary: Path | None = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        temporary.chmod(0o755)  # mkdtemp makes folders that only their owner may read
        for part in (METADATA, CARD, WEIGHTS):
            (temporary / part).parent.mkdir(parents=True)
        (temporary / "LICENSE").write_text(licence, encoding="utf-8")
        (temporary / METADATA).write_text(metadata.to_json(), encoding="utf-8")
        (temporary / INFERENCE).write_text(
            json.dumps(inference_config(section), indent=2) + "\n", encoding="utf-8"
        )
        (temporary / CARD).write_text(card, encoding="utf-8")
        (temporary / WEIGHTS).write_bytes(weights)
        if kept_atlas is not None:
            (temporary / ATLAS).write_bytes(stored_atlas)
        if directory.exists():
            directory.rename(temporary.with_name(f"{temporary.name}-old"))
        temporary.rename(directory)
    except OSError as error:
        raise OutputError(f"Cannot write the model folder {directory}: {error.strerror}.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(temporary.with_name(f"{temporary.name}-old"), ignore_errors=True)
    return directory


def _data_format(section: DianetSection) -> dict[str, Any]:
    """MONAI's description of what goes into the network and what comes out, `network_data_format`."""
    shape: list[int | str] = list(section.window[::-1])
    tensor = {
        "type": "image",
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
    }
    inputs = [modality.name for modality in section.modalities]
    image = {**tensor, "format": "magnitude", "modality": "n/a", **_channels(inputs)}
    outputs: dict[str, Any] = {}
    if section.structures:
        labels = ["background", *(structure.name for structure in section.structures)]
        outputs["pred"] = {**tensor, "format": "labels", **_channels(labels)}
    if section.classes:
        names = [entry.name for entry in section.classes]
        probabilities = {**tensor, "type": "probabilities", "spatial_shape": [], "value_range": [0, 1]}
        key = "classification" if outputs else "pred"
        outputs[key] = {**probabilities, "format": "classes", **_channels(names)}
    if section.reconstruction is not None:
        key = "reconstruction" if outputs else "pred"
        outputs[key] = {**tensor, "format": "magnitude", **_channels(inputs)}
    return {"inputs": {"image": image}, "outputs": outputs}


def _channels(names: Sequence[str]) -> dict[str, Any]:
    return {"num_channels": len(names), "channel_def": {str(i): name for i, name in enumerate(names)}}
