# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from DIANetLib.bundle import load_bundle
from DIANetLib.labelling import labels_of_logits
from DIANetLib.preprocess import normalise
from Testing.bundle.tiny import CONFIG, write_bundle


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_inference_json_runs_in_monai_and_agrees_with_the_network(tmp_path: Path, spatial_dims: int) -> None:
    nibabel = pytest.importorskip("nibabel")
    config = CONFIG.model_copy(update={"spatial_dims": spatial_dims}).model_dump(mode="json")
    window = (8, 12, 10) if spatial_dims == 3 else (8, 12, 1)
    bundle = write_bundle(tmp_path, network=config, window=window)
    array = np.random.default_rng(0).normal(size=(8, 12, 10)).astype(np.float32)  # (i, j, k), RAS
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "image.nii")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's own, at import and of its deprecated arguments
        from monai.bundle import ConfigParser

        parser = ConfigParser(json.loads((bundle / "configs/inference.json").read_text()))
        parser.update(
            {
                "bundle_root": str(bundle),
                "inputs": {"T1": str(tmp_path / "image.nii")},
                "output_dir": str(tmp_path / "out"),
                "device": "$torch.device('cpu')",
            }
        )
        parser.get_parsed_content("run")
    (written,) = (tmp_path / "out").glob("*.nii.gz")
    found = np.asarray(nibabel.load(written).dataobj).squeeze()  # (i, j, k)
    x = torch.from_numpy(normalise(array.transpose(2, 1, 0)))  # (k, j, i)
    network = load_bundle(bundle).network()
    if spatial_dims == 3:
        logits = network(x[None, None]).segmented.mean[0]
    else:
        logits = network(x[:, None]).segmented.mean.transpose(0, 1)
    expected = labels_of_logits(logits).numpy().transpose(2, 1, 0)
    assert (found == expected).mean() > 0.99  # percentiles may interpolate differently
    assert len(np.unique(expected)) > 1
    assert "monai" in sys.modules
