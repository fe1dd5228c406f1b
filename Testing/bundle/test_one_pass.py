# SPDX-License-Identifier: Apache-2.0
"""The one-pass head of a model folder: it comes back, and a file that is not as it should be is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.acwi.quality import QualityCurve, QualityModel
from DIANetLib.bundle import load_bundle
from DIANetLib.bundle_export import save_bundle
from DIANetLib.bundle_schema import OnePassSpec
from DIANetLib.errors import BundleError
from DIANetLib.model_folders import METADATA, ONE_PASS, WEIGHTS
from DIANetLib.network.one_pass import OnePassHead
from Testing.bundle.tiny import CONFIG, section, write_bundle
from training.one_pass_store import add_one_pass

SPEC = OnePassSpec(channels=5, depth=1)


def made(seed: int = 0, *, channels: int = 5) -> OnePassHead:
    torch.manual_seed(seed)
    return OnePassHead(CONFIG.spatial_dims, CONFIG.widths[0], CONFIG.classes, channels=channels, depth=1)


def with_head(folder: Path, **changes) -> Path:
    bundle = write_bundle(folder)
    spec = SPEC.model_copy(update=changes)
    section_text = "## What one pass tells in place of samples\n\nMuch."
    add_one_pass(bundle, made().state_dict(), spec, figures={"cases": 2}, section=section_text)
    return bundle


def replace_head(bundle: Path, state: dict[str, torch.Tensor]) -> None:
    """Another file, with hash and size in the metadata that fit it."""
    save_file(state, bundle / ONE_PASS)
    data = (bundle / ONE_PASS).read_bytes()
    document = json.loads((bundle / METADATA).read_text(encoding="utf-8"))
    document["dianet"]["one_pass"] |= {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    (bundle / METADATA).write_text(json.dumps(document), encoding="utf-8")


def test_the_head_comes_back_bit_by_bit_and_the_weights_stay(tmp_path: Path) -> None:
    before = hashlib.sha256((write_bundle(tmp_path / "a") / WEIGHTS).read_bytes()).hexdigest()
    curve = QualityCurve(-1.0, (0.5,), (1.0, 0.5), (-0.3, 0.2))
    bundle = with_head(
        tmp_path / "b",
        quality=QualityModel(("trust",), {"head": curve, "tail": curve}, samples=0, cases=2),
        error_calibration=ErrorCalibration((0.0, 0.1, 0.2), (1.0, 0.9, 0.8)),
    )
    assert hashlib.sha256((bundle / WEIGHTS).read_bytes()).hexdigest() == before
    model = load_bundle(bundle)
    assert model.one_pass is not None
    assert (model.one_pass.channels, model.one_pass.depth) == (5, 1)
    assert model.one_pass.quality is not None
    assert model.one_pass.quality.features == ("trust",)
    assert model.one_pass.error_calibration == ErrorCalibration((0.0, 0.1, 0.2), (1.0, 0.9, 0.8))
    head = model.one_pass_head()
    assert head is not None
    assert head is model.one_pass_head()
    assert not head.training
    for name, value in made().state_dict().items():
        torch.testing.assert_close(head.state_dict()[name], value, rtol=0, atol=0)
    assert model.metadata.dianet.figures["one_pass"] == {"cases": 2}
    card = (bundle / "docs/README.md").read_text(encoding="utf-8")
    assert card.count("## What one pass tells in place of samples") == 1
    assert card.startswith("# ") or "\n" in card


def test_a_second_head_takes_the_place_of_the_first(tmp_path: Path) -> None:
    bundle = with_head(tmp_path)
    text = "## What one pass tells in place of samples\n\nMore."
    add_one_pass(
        bundle,
        made(1, channels=4).state_dict(),
        OnePassSpec(channels=4, depth=1),
        figures={},
        section=text,
    )
    head = load_bundle(bundle).one_pass_head()
    assert head is not None
    assert head.channels == 4
    card = (bundle / "docs/README.md").read_text(encoding="utf-8")
    assert card.count("## What one pass tells") == 1
    assert "More." in card
    assert "Much." not in card


def test_a_folder_without_head_has_none(tmp_path: Path) -> None:
    model = load_bundle(write_bundle(tmp_path))
    assert (model.one_pass, model.one_pass_head()) == (None, None)


def test_a_head_that_was_changed_or_is_missing_gets_a_sentence(tmp_path: Path) -> None:
    bundle = with_head(tmp_path)
    file = bundle / ONE_PASS
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(
        BundleError, match=r"one_pass\.safetensors is not the file that the model was publish"
    ):
        load_bundle(bundle).one_pass_head()
    file.unlink()
    with pytest.raises(BundleError, match=r"incomplete: models/one_pass\.safetensors is missing"):
        load_bundle(bundle).one_pass_head()


def test_a_head_of_another_shape_or_with_missing_parts_gets_a_sentence(tmp_path: Path) -> None:
    bundle = with_head(tmp_path)
    state = made().state_dict()
    wide = {**state, "tell.bias": torch.zeros(12)}
    replace_head(bundle, wide)
    with pytest.raises(BundleError, match=r"'tell\.bias' is of shape \(12,\), expected of shape \(9,\)"):
        load_bundle(bundle).one_pass_head()
    replace_head(bundle, {name: value for name, value in state.items() if name != "read.weight"})
    with pytest.raises(BundleError, match=r"'read\.weight' is missing, expected of shape"):
        load_bundle(bundle).one_pass_head()
    replace_head(bundle, {**state, "extra": torch.zeros(1)})
    with pytest.raises(BundleError, match=r"'extra' is of shape \(1,\), expected missing"):
        load_bundle(bundle).one_pass_head()


def test_a_head_that_is_not_finite_or_no_safetensors_gets_a_sentence(tmp_path: Path) -> None:
    bundle = with_head(tmp_path)
    replace_head(bundle, {**made().state_dict(), "tell.bias": torch.full((9,), float("nan"))})
    with pytest.raises(BundleError, match="has NaN or infinite values"):
        load_bundle(bundle).one_pass_head()
    data = b"no tensors"
    (bundle / ONE_PASS).write_bytes(data)
    document = json.loads((bundle / METADATA).read_text(encoding="utf-8"))
    document["dianet"]["one_pass"] |= {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    (bundle / METADATA).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(BundleError, match="is not a readable one-pass head"):
        load_bundle(bundle).one_pass_head()


def test_what_does_not_fit_the_structures_is_refused() -> None:
    two = ErrorCalibration((0.0, 0.0), (1.0, 1.0))
    with pytest.raises(ValueError, match="expected an error calibration of 3 classes, got 2"):
        section(one_pass=OnePassSpec(channels=4, depth=1, error_calibration=two))
    curve = QualityCurve(-1.0, (0.5,), (1.0, 0.5), (-0.3, 0.2))
    tooth = QualityModel(("trust",), {"tooth": curve})
    with pytest.raises(ValueError, match="expected quality of the structures alone, got tooth"):
        section(one_pass=OnePassSpec(channels=4, depth=1, quality=tooth))


def test_other_weights_come_without_the_head(tmp_path: Path) -> None:
    bundle = with_head(tmp_path / "a")
    model = load_bundle(bundle)
    written = save_bundle(
        tmp_path / "b" / "tiny",
        model.metadata,
        model.network().state_dict(),
        card="# tiny\n",
        licence="None.",
    )
    assert load_bundle(written).one_pass is None
