# SPDX-License-Identifier: Apache-2.0
"""Model folders in MONAI Bundle layout: finding, checking, loading and writing them.

    NAME/LICENSE
    NAME/configs/metadata.json      MONAI's keys and the section "dianet" (`bundle_schema`)
    NAME/configs/inference.json     for other MONAI tools; DIANet never evaluates it
    NAME/docs/README.md             the model card
    NAME/models/model.safetensors   the weights, float16 or float32
    NAME/models/atlas.safetensors   where each class is expected, float16, if the model was fitted with one
    NAME/models/one_pass.safetensors  the head that stands for samples in one pass, float32, if there is one
    NAME/models/familiarity.safetensors  what the encoder saw on the fitted cases, if that was kept

Loading reads two files, JSON and safetensors, and executes nothing from the folder: no pickles, no
TorchScript, no expressions of a config. Every file that isn't as it should be gets a `BundleError` with a
sentence. torch is imported when weights are loaded, not when models are listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.acwi.familiarity import FamiliarityModel
from DIANetLib.acwi.quality import QualityModel
from DIANetLib.bundle_export import make_metadata, save_bundle
from DIANetLib.bundle_familiarity import load_familiarity
from DIANetLib.bundle_schema import (
    BundleMetadata,
    ClassSpec,
    LocaliserSpec,
    ModalitySpec,
    OnePassSpec,
    ReconstructionSpec,
)
from DIANetLib.bundle_weights import build_network, load_atlas, load_one_pass, parsed, verify_weights
from DIANetLib.errors import BundleError
from DIANetLib.inference.prediction import ModelRef
from DIANetLib.model_folders import METADATA, WEIGHTS, read_document, search_paths
from DIANetLib.structures import Structure

if TYPE_CHECKING:
    import torch

    from DIANetLib.network import DIANet, NetworkConfig
    from DIANetLib.network.one_pass import OnePassHead
    from DIANetLib.preprocess import PreprocessConfig

__all__ = [
    "BundleEntry",
    "LoadedModel",
    "find_bundle",
    "list_bundles",
    "load_bundle",
    "make_metadata",
    "read_metadata",
    "save_bundle",
    "search_paths",
    "verify_weights",
]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checked model folder; the network is built at the first call of `network` and kept.

    Attributes:
        metadata: All of `configs/metadata.json`.
        path: The folder.
        sha256: Hash of the weight file, equal to the one in the metadata.
    """

    metadata: BundleMetadata
    path: Path
    sha256: str
    _networks: dict[str, DIANet] = field(default_factory=dict, repr=False)
    _heads: dict[str, OnePassHead] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.metadata.dianet.name

    @property
    def version(self) -> str:
        """Version of the model."""
        return self.metadata.version

    @property
    def ref(self) -> ModelRef:
        """Name, version and hash, as results carry them."""
        return ModelRef(self.name, self.version, self.sha256)

    @property
    def structures(self) -> tuple[Structure, ...]:
        """What the channels 1, 2, ... of the segmentation head stand for; empty without that head."""
        return self.metadata.dianet.structures

    @property
    def classes(self) -> tuple[ClassSpec, ...]:
        """What the logits of the classification head stand for; empty without that head."""
        return self.metadata.dianet.classes

    @property
    def reconstruction(self) -> ReconstructionSpec | None:
        """What the reconstruction head is for; None where there is none to use."""
        return self.metadata.dianet.reconstruction

    @cached_property
    def atlas(self) -> torch.Tensor | None:
        """Probability of each class at each place, (K, *A) float32 on the CPU; None without an atlas.

        Raises:
            BundleError: The file is missing, damaged, or another one.
        """
        return load_atlas(self.path, self.metadata.dianet)

    @property
    def atlas_spacing_mm(self) -> tuple[float, float, float] | None:
        """Voxel size (i, j, k) of the atlas, mm; None without an atlas."""
        spec = self.metadata.dianet.atlas
        return None if spec is None else spec.spacing_mm

    @property
    def modalities(self) -> tuple[ModalitySpec, ...]:
        """What the network's input channels stand for."""
        return self.metadata.dianet.modalities

    @property
    def window(self) -> tuple[int, int, int]:
        """Voxels (i, j, k) of the sliding window."""
        return self.metadata.dianet.window

    @property
    def temperature(self) -> float:
        """What the segmentation head's logits are divided by; those of classes have their own."""
        return self.metadata.dianet.temperature

    @property
    def mirror_samples(self) -> bool:
        """Whether every other sample reads the image mirrored left to right."""
        return self.metadata.dianet.mirror_samples

    @property
    def localiser(self) -> LocaliserSpec | None:
        """Which other model finds the region to look at."""
        return self.metadata.dianet.localiser

    @property
    def error_calibration(self) -> ErrorCalibration | None:
        """What corrects the error probability class by class; None where that was not fitted."""
        return self.metadata.dianet.error_calibration

    @property
    def quality(self) -> QualityModel | None:
        """What turns the agreement of samples into expected Dice; None where it was not fitted."""
        return self.metadata.dianet.quality

    @cached_property
    def familiarity(self) -> FamiliarityModel | None:
        """What tells whether an image is like those fitted; None where that was not kept.

        Raises:
            BundleError: The file is missing, damaged, or another one.
        """
        return load_familiarity(self.path, self.metadata.dianet)

    @property
    def one_pass(self) -> OnePassSpec | None:
        """The head that stands for samples in one pass; None where there is none."""
        return self.metadata.dianet.one_pass

    @property
    def preprocess(self) -> PreprocessConfig:
        """How an image is prepared.

        Raises:
            BundleError: The metadata's fields are not those of `PreprocessConfig`.
        """
        return parsed(self.metadata.dianet.preprocess_config, self.path, "dianet.preprocess")

    @property
    def network_config(self) -> NetworkConfig:
        """What the network is made of.

        Raises:
            BundleError: The metadata's fields are not those of `NetworkConfig`.
        """
        return parsed(self.metadata.dianet.network_config, self.path, "dianet.network")

    def load_localiser(self) -> LoadedModel | None:
        """The model that finds the region, looked for beside this one and then by name; None without one.

        Raises:
            BundleError: It is not there or not usable.
        """
        if self.localiser is None:
            return None
        beside = self.path.parent / self.localiser.model
        try:
            return load_bundle(beside if beside.is_dir() else self.localiser.model)
        except BundleError as error:
            raise BundleError(
                f"The model {self.name!r} needs the model {self.localiser.model!r} to find the region to look"
                f" at. {error.message}",
                remedy=error.remedy,
            ) from error

    def network(self, device: str | torch.device = "cpu") -> DIANet:
        """The network with its weights as float32, in evaluation mode, on `device`.

        Raises:
            BundleError: The weights are damaged or belong to another architecture.
        """
        key = str(device)
        if key not in self._networks:
            self._networks[key] = build_network(self.path, self.metadata.dianet).to(device)
        return self._networks[key]

    def one_pass_head(self, device: str | torch.device = "cpu") -> OnePassHead | None:
        """The one-pass head on `device`; None where there is none.

        Raises:
            BundleError: Its file is missing, damaged or another one.
        """
        key = str(device)
        if self.one_pass is not None and key not in self._heads:
            head = load_one_pass(self.path, self.metadata.dianet)
            assert head is not None  # the metadata name one
            self._heads[key] = head.to(device)
        return self._heads.get(key)

    def release(self) -> None:
        """Forget the networks, so that their memory can be used for something else."""
        self._networks.clear()
        self._heads.clear()


@dataclass(frozen=True)
class BundleEntry:
    """A folder among the models.

    Attributes:
        name: The folder's name.
        path: The folder.
        metadata: What the folder says of itself; None if that cannot be read.
        problem: Why the model cannot be used; None if nothing was found.
    """

    name: str
    path: Path
    metadata: BundleMetadata | None
    problem: str | None = None


def list_bundles(paths: Sequence[Path] | None = None, *, verify: bool = False) -> tuple[BundleEntry, ...]:
    """List the models in `paths` (default: `search_paths()`), usable or not; the first of a name wins.

    Args:
        paths: Folders of model folders.
        verify: Also hash the weights, which reads them whole.
    """
    entries: dict[str, BundleEntry] = {}
    for folder in search_paths() if paths is None else paths:
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if path.name in entries or path.name.startswith(".") or not (path / "configs").is_dir():
                continue
            metadata, problem = None, None
            try:
                metadata = read_metadata(path)
                verify_weights(path, metadata.dianet, hashed=verify)
            except BundleError as error:
                problem = str(error)
            entries[path.name] = BundleEntry(path.name, path, metadata, problem)
    return tuple(entries.values())


def load_bundle(model: str | Path) -> LoadedModel:
    """Find and check a model folder; nothing in it is executed.

    Args:
        model: Name of a model in `search_paths()`, or a folder.

    Raises:
        BundleError: There is no such model, or the folder is incomplete, tampered with, damaged or foreign.
    """
    path = find_bundle(model)
    metadata = read_metadata(path)
    verify_weights(path, metadata.dianet)
    return LoadedModel(metadata, path, metadata.dianet.sha256)


def read_metadata(path: Path) -> BundleMetadata:
    """Read and validate `configs/metadata.json` of the folder `path`.

    Raises:
        BundleError: The file is missing, damaged, foreign or newer than this release.
    """
    data = read_document(path)
    return parsed(lambda: BundleMetadata.model_validate(data), path, "")


def find_bundle(model: str | Path) -> Path:
    """The folder of a model, looked for but not looked into.

    Args:
        model: Name of a model in `search_paths()`, or a folder.

    Raises:
        BundleError: There is no such model.
    """
    text = str(model)
    if isinstance(model, str) and text and Path(text).name == text and text not in (".", ".."):
        for folder in search_paths():
            if (folder / text / "configs").is_dir():
                return folder / text
    path = Path(model)
    if text and path.is_dir():
        return path.resolve()
    if path.is_file():
        raise BundleError(
            f"{path} is a file, expected a model folder with {METADATA} and {WEIGHTS}.",
            remedy="Give the folder.",
        )
    known = ", ".join(entry.name for entry in list_bundles()) or "none"
    raise BundleError(
        f"There is no model {text!r}; known models: {known}.",
        remedy="Give one of these names or a model folder; $DIANET_MODELS may name more folders of models.",
    )
