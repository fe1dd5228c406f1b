# SPDX-License-Identifier: Apache-2.0
"""What a model folder keeps of the images that the model was fitted on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.acwi.familiarity import FamiliarityModel, FamiliarityScale
from DIANetLib.bundle import load_bundle
from DIANetLib.bundle_familiarity import familiarity_file
from DIANetLib.errors import BundleError
from DIANetLib.model_folders import FAMILIARITY, METADATA
from Testing.bundle.tiny import section, write_bundle


def made() -> FamiliarityModel:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(5, 5)))[0][:2].astype(np.float32)
    parts = (rng.normal(size=5), rng.uniform(1, 2, 5), axes, rng.uniform(1, 2, 2))
    arrays = (part.astype(np.float32) for part in parts)
    return FamiliarityModel(*arrays, 0.75, FamiliarityScale(-0.1, 0.2, 2.0, 5.0, "T1 of heads"))


def put(folder: Path) -> FamiliarityModel:
    model = made()
    content, spec = familiarity_file(model, 21)
    (folder / FAMILIARITY).write_bytes(content)
    data = json.loads((folder / METADATA).read_text())
    data["dianet"]["familiarity"] = spec.model_dump(mode="json")
    (folder / METADATA).write_text(json.dumps(data))
    return model


def test_it_comes_back_and_judges_the_same(tmp_path: Path):
    folder = write_bundle(tmp_path)
    put_in = put(folder)
    found = load_bundle(folder)
    x = np.linspace(-2, 2, 5)
    assert found.familiarity.judge(x, "left") == put_in.judge(x, "left")
    assert found.metadata.dianet.familiarity.cases == 21


def test_models_without_it_say_nothing(tmp_path: Path):
    assert load_bundle(write_bundle(tmp_path)).familiarity is None


def test_new_weights_do_not_take_it_over(tmp_path: Path):
    _, spec = familiarity_file(made(), 3)
    folder = write_bundle(tmp_path, familiarity=spec)
    assert section(familiarity=spec).familiarity is not None
    assert load_bundle(folder).familiarity is None


def test_a_file_that_was_changed_cut_off_or_is_missing_gets_a_sentence(tmp_path: Path):
    folder = write_bundle(tmp_path)
    put(folder)
    file = folder / FAMILIARITY
    whole = file.read_bytes()
    for content in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-9]):
        file.write_bytes(content)
        with pytest.raises(BundleError, match=r"familiarity\.safetensors is not the file that the model was"):
            _ = load_bundle(folder).familiarity
    file.unlink()
    with pytest.raises(BundleError, match=r"incomplete: models/familiarity\.safetensors is missing"):
        _ = load_bundle(folder).familiarity


def test_limits_out_of_order_get_a_sentence(tmp_path: Path):
    folder = write_bundle(tmp_path)
    put(folder)
    data = json.loads((folder / METADATA).read_text())
    data["dianet"]["familiarity"]["levels"]["unfamiliar"] = 1.0
    (folder / METADATA).write_text(json.dumps(data))
    with pytest.raises(BundleError, match="does not describe a usable model: A scale of familiarity"):
        load_bundle(folder)
