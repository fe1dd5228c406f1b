# SPDX-License-Identifier: Apache-2.0
"""The folder of a reconstruction."""

from __future__ import annotations

import json

import numpy as np

from DIANetLib.formats.image import read_volume
from DIANetLib.formats.reconstruction_folder import write_reconstruction
from DIANetLib.inference.prediction import ModelRef
from DIANetLib.inference.reconstruction import Reconstruction
from DIANetLib.volume import Geometry, Volume

GRID = Geometry((12, 10, 8), (1.0, 1.0, 2.0), (5.0, -3.0, 7.0), np.diag([-1.0, -1.0, 1.0]))


def reconstruction() -> Reconstruction:
    rng = np.random.default_rng(0)
    observed, image, deviation = (
        Volume(rng.random(GRID.shape).astype(np.float32), GRID, name)
        for name in ("a <b>", "made", "deviation")
    )
    model = ModelRef("denoiser", "1.0.0", "0" * 64)
    return Reconstruction(image, deviation, observed, 4, model, "cpu", {"reconstruct": 1.0}, ("Look.",))


def test_images_and_numbers_come_back(tmp_path):
    made = reconstruction()
    paths = write_reconstruction(made, tmp_path / "out")
    np.testing.assert_array_equal(read_volume(paths.reconstruction).array, made.image.array)
    np.testing.assert_array_equal(read_volume(paths.uncertainty).array, made.deviation.array)
    assert read_volume(paths.uncertainty).geometry.same_grid(GRID, 1e-6)
    record = json.loads(paths.result.read_text(encoding="utf-8"))
    assert (record["task"], record["samples"], record["warnings"]) == ("reconstruction", 4, ["Look."])
    assert record["mean_deviation"] == float(made.deviation.array.mean(dtype=np.float64))
    assert set(record["files"].values()) == {path.name for path in paths.directory.iterdir()}


def test_the_report_shows_input_reconstruction_and_deviation(tmp_path):
    page = write_reconstruction(reconstruction(), tmp_path / "out").report.read_text(encoding="utf-8")
    assert [title in page for title in ("<h2>Input</h2>", "<h2>Deviation over the samples</h2>")] == [
        True
    ] * 2
    assert page.count("<img ") == 9
    assert "a &lt;b&gt;" in page
    assert "a <b>" not in page


def test_an_earlier_folder_is_replaced(tmp_path):
    write_reconstruction(reconstruction(), tmp_path / "out")
    write_reconstruction(reconstruction(), tmp_path / "out", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
