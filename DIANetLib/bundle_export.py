# SPDX-License-Identifier: Apache-2.0
"""Writing model folders: metadata around DIANet's section, weights, a configuration for other MONAI tools."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from DIANetLib.bundle_schema import BundleMetadata, DianetSection
from DIANetLib.bundle_weights import check_architecture, check_finite, parsed
from DIANetLib.errors import OutputError
from DIANetLib.model_folders import METADATA, WEIGHTS

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

    shape: list[int | str] = list(section.window[::-1])
    tensor = {
        "type": "image",
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
    }
    names = ["background", *(structure.name for structure in section.structures)]
    image = {
        **tensor,
        "format": "magnitude",
        "modality": "n/a",
        "num_channels": len(section.modalities),
        "channel_def": {str(i): modality.name for i, modality in enumerate(section.modalities)},
    }
    pred = {
        **tensor,
        "format": "labels",
        "num_channels": len(names),
        "channel_def": {str(i): name for i, name in enumerate(names)},
    }
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
        network_data_format={"inputs": {"image": image}, "outputs": {"pred": pred}},
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

    Returns:
        The folder.

    Raises:
        BundleError: The weights don't fit `metadata`, aren't finite or don't fit into `dtype`.
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
        update={"sha256": hashlib.sha256(weights).hexdigest(), "size_bytes": len(weights)}
    )
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
        (temporary / INFERENCE).write_text(json.dumps(_inference(section), indent=2) + "\n", encoding="utf-8")
        (temporary / CARD).write_text(card, encoding="utf-8")
        (temporary / WEIGHTS).write_bytes(weights)
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


def _inference(section: DianetSection) -> dict[str, Any]:
    """Text of `configs/inference.json`: one plain sliding-window pass with MONAI's own transforms.

    It serves tools that run MONAI bundles and needs DIANet installed. MONAI's arrays are (i, j, k) after
    loading, DIANet's are (k, j, i), hence the transpositions.
    """
    preprocess = section.preprocess_config()
    low, high = preprocess.clip_percentiles
    keys = [modality.name for modality in section.modalities]
    # MONAI keeps an axis as it is where the spacing asked for is not positive.
    spacing = [-1.0 if wanted is None else wanted for wanted in preprocess.spacing_mm]

    def target(class_name: str, **arguments: Any) -> dict[str, Any]:
        return {"_target_": class_name, **arguments}

    transforms = [
        target("LoadImaged", keys=keys, ensure_channel_first=True),
        *([target("Orientationd", keys=keys, axcodes="RAS")] if preprocess.orientation == "RAS" else []),
        target("Spacingd", keys=keys, pixdim=spacing, mode="bilinear"),
        target("ClipIntensityPercentilesd", keys=keys, lower=low, upper=high),
        target("NormalizeIntensityd", keys=keys),
        target("ConcatItemsd", keys=keys, name="image"),
    ]
    i, j, k = section.window
    if section.network.get("spatial_dims", 3) == 2:
        inferer = target("SliceInferer", roi_size=[i, j], spatial_dim=2, overlap=0.5, mode="gaussian")
        swap = ".transpose(-1, -2)"
    else:
        inferer = target("SlidingWindowInferer", roi_size=[i, j, k], overlap=0.5, mode="gaussian")
        swap = ".transpose(-1, -3)"
    return {
        "imports": ["$import pathlib", "$import torch", "$from DIANetLib.bundle import load_bundle"],
        "bundle_root": ".",
        "inputs": {key: f"{key}.nii.gz" for key in keys},
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network": "$load_bundle(pathlib.Path(@bundle_root)).network(@device)",
        "predictor": f"$lambda x: @network(x{swap}).mean{swap}",
        "preprocessing": target("Compose", transforms=transforms),
        "inferer": inferer,
        "postprocessing": target(
            "Compose",
            transforms=[
                target("AsDiscreted", keys="pred", argmax=True),
                target(
                    "Invertd", keys="pred", transform="@preprocessing", orig_keys=keys[0], nearest_interp=True
                ),
                target("SaveImaged", keys="pred", output_dir="@output_dir", separate_folder=False),
            ],
        ),
        "prepared": "$@preprocessing(@inputs)",
        "logits": "$@inferer(@prepared['image'][None].to(@device), @predictor)[0]",
        "run": ["$@postprocessing({**@prepared, 'pred': @logits})"],
    }
