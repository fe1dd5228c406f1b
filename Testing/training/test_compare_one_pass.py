# SPDX-License-Identifier: Apache-2.0
"""A one-pass head among the methods of uncertainty: what the product's own maps say, at the judged voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from DIANetLib.bundle import load_bundle
from DIANetLib.bundle_schema import OnePassSpec
from DIANetLib.inference.sampling import sample_window
from DIANetLib.network.one_pass import OnePassHead
from Testing.bundle.tiny import structures, write_bundle
from Testing.training.tiny import config
from training.compare_cases import Runner
from training.compare_methods import ONE_PASS, PLAIN, chosen, methods
from training.compare_one_pass import one_pass_calibration, one_pass_network
from training.compare_passes import one_window
from training.datasets import find_cases, load_case
from training.one_pass_store import add_one_pass


def bundle(folder: Path) -> Path:
    """A model folder with a head of random weights."""
    network = config().network
    keys = structures("front", "back")
    made = write_bundle(folder, network=network.model_dump(mode="json"), structures=keys, window=(16, 16, 12))
    torch.manual_seed(1)
    head = OnePassHead(3, network.widths[0], network.classes, channels=4, depth=1)
    with torch.no_grad():
        head.tell.weight.normal_(0, 0.3)
    add_one_pass(made, head.state_dict(), OnePassSpec(channels=4, depth=1), figures={}, section="## Head")
    return made


def test_the_heads_maps_are_the_products(data: Path, tmp_path: Path):
    settings, model = config(), load_bundle(bundle(tmp_path))
    network = one_pass_network(model)
    networks = {"shipped": model.network(), ONE_PASS: network}
    runner = Runner(networks, dict.fromkeys(networks, "hash"), settings, tmp_path / "kept")
    case = find_cases(data, settings.data)[0]
    asked = chosen([ONE_PASS], methods(one_pass=True))
    loaded = load_case(case, settings)
    window = one_window(network, loaded.image.shape[1:], settings.window_kji, case.name)
    maps = sample_window(
        model.network(),
        window.cut(torch.from_numpy(loaded.image)).unsqueeze(0),
        samples=0,
        temperature=model.temperature,
        valid=window.valid,
        head=model.one_pass_head(),
    )
    mask = runner.near(case).mask
    for _ in range(2):  # made, then read
        told = runner.told(case, asked, {PLAIN: 1.0, ONE_PASS: 1.0})[ONE_PASS]
        np.testing.assert_allclose(told.probabilities, maps.mean_probability.numpy()[:, mask], atol=1e-5)
        np.testing.assert_allclose(told.epistemic, maps.epistemic.numpy()[mask], atol=1e-5)
        np.testing.assert_allclose(told.error, maps.error.numpy()[mask], atol=1e-5)
    assert one_pass_calibration(model).slopes == (1.0, 1.0, 1.0)


def test_a_model_without_a_head_has_no_such_method(tmp_path: Path):
    assert one_pass_network(load_bundle(write_bundle(tmp_path))) is None
    assert ONE_PASS not in {method.name for method in methods()}
