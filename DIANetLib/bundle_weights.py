# SPDX-License-Identifier: Apache-2.0
"""The weight file of a model folder: checked against its metadata, then loaded; never unpickled.

The checks of `verify_weights` need no torch, so that listing models stays fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pydantic

from DIANetLib.bundle_schema import AtlasSpec, DianetSection, OnePassSpec
from DIANetLib.errors import BundleError, DIANetError
from DIANetLib.hashes import file_sha256
from DIANetLib.model_folders import ATLAS, METADATA, ONE_PASS, REINSTALL, WEIGHTS, checked_file, first_line

if TYPE_CHECKING:
    import torch

    from DIANetLib.network import DIANet, NetworkConfig
    from DIANetLib.network.one_pass import OnePassHead


#: Name of the tensor in the atlas file.
ATLAS_KEY = "atlas"

_PICKLED = (".pt", ".pth", ".ts", ".pkl", ".bin", ".ckpt")
_Parsed = TypeVar("_Parsed")


def verify_weights(path: Path, section: DianetSection, *, hashed: bool = True) -> None:
    """Compare the weight file of the folder `path` with what its metadata says.

    Args:
        path: The model folder.
        section: DIANet's part of its metadata.
        hashed: Also compare the SHA-256, which reads the file whole.

    Raises:
        BundleError: The file is missing, pickled, truncated, or another one.
    """
    file = path / WEIGHTS
    if not file.is_file():
        pickled = sorted(p.name for p in file.parent.glob("*") if p.suffix in _PICKLED)
        if pickled:
            raise BundleError(
                f"{path} holds its weights as {pickled[0]}, a format that can run code when it is opened, so"
                f" DIANet does not open it; expected {WEIGHTS}.",
                remedy="Export the model with `python -m training export`.",
            )
        raise BundleError(f"The model folder {path} is incomplete: {WEIGHTS} is missing.", remedy=REINSTALL)
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(9)
    if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[8:9] != b"{"):
        raise BundleError(
            f"{file} is a pickled file under another name; such a file can run code when it is opened, so"
            " DIANet does not open it; expected safetensors.",
            remedy=REINSTALL,
        )
    if size < section.size_bytes:
        raise BundleError(
            f"{file} is truncated: it has {size:,} bytes, expected {section.size_bytes:,}.", remedy=REINSTALL
        )
    if size > section.size_bytes or (hashed and file_sha256(file) != section.sha256):
        raise BundleError(
            f"{file} is not the file that the model was published with: its size or SHA-256 differs from the"
            f" one in {METADATA}.",
            remedy=REINSTALL,
        )


def build_network(path: Path, section: DianetSection) -> DIANet:
    """The network of the folder `path` with its weights as float32 on the CPU, in evaluation mode.

    Raises:
        BundleError: The weights are damaged, not finite, or belong to another architecture.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from DIANetLib.network import DIANet

    file = path / WEIGHTS
    config = parsed(section.network_config, path, "dianet.network")
    _check_heads(config, section)
    try:
        state = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(
            f"{file} is not a readable safetensors file ({first_line(error)}).", remedy=REINSTALL
        ) from error
    check_architecture(config, {key: tuple(value.shape) for key, value in state.items()}, path)
    check_finite(state, f"The weights in {file}")
    with torch.device("meta"):  # no random start values are drawn only to be replaced
        network = DIANet(config)
    network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return network.eval().requires_grad_(False)


def load_atlas(path: Path, section: DianetSection) -> torch.Tensor | None:
    """The atlas of the folder `path`, (K, *A) float32; None if the metadata names none.

    Raises:
        BundleError: The file is missing, damaged, or another one than the metadata names.
    """
    if section.atlas is None:
        return None
    found = _load_part(path, ATLAS, section.atlas, "atlas")
    if ATLAS_KEY not in found:
        raise BundleError(f"{path / ATLAS} is not a readable atlas ({ATLAS_KEY!r}).", remedy=REINSTALL)
    return found[ATLAS_KEY].float()


def load_one_pass(path: Path, section: DianetSection) -> OnePassHead | None:
    """The one-pass head of the folder `path`, float32 on the CPU; None if the metadata names none.

    Raises:
        BundleError: The file is missing, damaged, not finite, or another one than the metadata names.
    """
    import torch

    if section.one_pass is None:
        return None
    file = path / ONE_PASS
    found = _load_part(path, ONE_PASS, section.one_pass, "one-pass head")
    config = parsed(section.network_config, path, "dianet.network")
    with torch.device("meta"):
        head = empty_one_pass(config, section.one_pass)
    expected = {key: tuple(value.shape) for key, value in head.state_dict().items()}
    for key in [*expected, *(key for key in found if key not in expected)]:
        got = tuple(found[key].shape) if key in found else None
        if expected.get(key) != got:
            raise BundleError(
                f"{file} holds another head than {METADATA} describes: {key!r} is {_shape(got)}, expected"
                f" {_shape(expected.get(key))}.",
                remedy=REINSTALL,
            )
    check_finite(found, f"The weights in {file}")
    head.load_state_dict({key: value.float() for key, value in found.items()}, assign=True)
    return head.eval().requires_grad_(False)


def empty_one_pass(config: NetworkConfig, spec: OnePassSpec) -> OnePassHead:
    """The head that a specification describes, for a network, with start values."""
    from DIANetLib.network.one_pass import OnePassHead

    return OnePassHead(
        config.spatial_dims, config.widths[0], config.classes, channels=spec.channels, depth=spec.depth
    )


def _load_part(path: Path, name: Path, spec: AtlasSpec | OnePassSpec, what: str) -> dict[str, torch.Tensor]:
    """The tensors of a small file beside the weights, compared with what the metadata says of it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = checked_file(path, name, spec.size_bytes, spec.sha256)
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(
            f"{file} is not a readable {what} ({first_line(error)}).", remedy=REINSTALL
        ) from error


def _check_heads(config: NetworkConfig, section: DianetSection) -> None:
    """Compare the network's inputs and outputs with what the metadata names."""
    inputs = len(section.modalities)
    classes = 0 if config.classification is None else config.classification.classes
    labels = len(section.structures) + 1 if section.structures else 0
    if (config.modalities, config.classes, classes) != (inputs, labels, len(section.classes)):
        raise BundleError(
            f"The model {section.name!r} is inconsistent: its network has {config.modalities} inputs,"
            f" {config.classes} labels of voxels and {classes} classes of images, its metadata names {inputs}"
            f" modalities, {len(section.structures)} structures (beside the background) and"
            f" {len(section.classes)} classes.",
            remedy=REINSTALL,
        )
    if section.reconstruction is not None and config.reconstruction is None:
        raise BundleError(
            f"The model {section.name!r} is inconsistent: its metadata names a reconstruction"
            f" ({section.reconstruction.task}), its network has no head for one.",
            remedy=REINSTALL,
        )


def check_architecture(config: NetworkConfig, found: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Compare names and shapes of weights with those of the network that `config` describes.

    Raises:
        BundleError: Naming the first difference.
    """
    import torch

    from DIANetLib.network import DIANet

    with torch.device("meta"):
        expected = {key: tuple(value.shape) for key, value in DIANet(config).state_dict().items()}
    for key in [*expected, *(key for key in found if key not in expected)]:
        if expected.get(key) != found.get(key):
            raise BundleError(
                f"The weights in {path} belong to another architecture than its metadata describes:"
                f" {key!r} is {_shape(found.get(key))}, expected {_shape(expected.get(key))}.",
                remedy=REINSTALL,
            )


def check_finite(state: Mapping[str, torch.Tensor], what: str) -> None:
    """Raise a `BundleError` that starts with `what` if a weight is NaN or infinite."""
    for key, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise BundleError(f"{what} are not all finite: {key!r} has NaN or infinite values.")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {shape}"


def parsed(parse: Callable[[], _Parsed], path: Path, prefix: str) -> _Parsed:
    """Call `parse` and turn what a validator raises into a sentence that names the first field."""
    try:
        return parse()
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join([*([prefix] if prefix else []), *(str(part) for part in first["loc"])])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        value = first.get("input")
        got = (
            f", got {value!r}"
            if isinstance(value, str | int | float) and first["type"] != "value_error"
            else ""
        )
        raise BundleError(
            f"{path / METADATA} does not describe a usable model: {where}: {message}{got}{more}.",
            remedy=REINSTALL,
        ) from error
    except DIANetError as error:  # from a structure's own checks
        raise BundleError(
            f"{path / METADATA} does not describe a usable model: {error.message}", remedy=REINSTALL
        ) from error
