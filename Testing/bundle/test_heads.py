# SPDX-License-Identifier: Apache-2.0
"""Model folders of networks that classify or reconstruct, and the atlas in a folder."""

from __future__ import annotations

import ast
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from DIANetLib.bundle import load_bundle, save_bundle
from DIANetLib.bundle_schema import ClassSpec, ReconstructionSpec
from DIANetLib.errors import BundleError
from DIANetLib.network import ClassificationConfig, DIANet, NetworkConfig, ReconstructionConfig
from DIANetLib.preprocess import normalise
from DIANetLib.structures import Code
from Testing.bundle.tiny import CONFIG, metadata, network, section, write_bundle

PNEUMONIA = Code("SCT", "233604007", "Pneumonia")
CLASSES = (
    ClassSpec(key="normal", name="No finding", temperature=1.5),
    ClassSpec(key="pneumonia", name="Pneumonia", code=PNEUMONIA, temperature=2.0),
)
SMALL: dict[str, Any] = {"widths": (4, 6), "blocks": (0, 0), "strides": (2,), "deep_supervision": 0}


def classifier(**changes: Any) -> NetworkConfig:
    return NetworkConfig(**{**SMALL, "classification": ClassificationConfig(classes=2), **changes})


def write_classifier(
    folder: Path, *, classes: tuple[ClassSpec, ...] = CLASSES, labels: int = 0, **changes: Any
) -> Path:
    config = classifier(classes=labels, **changes)
    window = (8, 12, 1) if config.spatial_dims == 2 else (8, 12, 10)
    fields = {"network": config.model_dump(mode="json"), "window": window, "classes": classes}
    return write_bundle(folder, **fields, **({} if config.classes else {"structures": ()}))


def test_a_classifier_comes_back_with_its_classes(tmp_path: Path) -> None:
    model = load_bundle(write_classifier(tmp_path, spatial_dims=2))
    assert model.classes == CLASSES
    assert model.structures == ()
    assert model.network()(torch.zeros(1, 1, 8, 12)).classified.logits.shape == (1, 2)
    outputs = model.metadata.network_data_format["outputs"]
    assert outputs["pred"]["type"] == "probabilities"
    assert outputs["pred"]["channel_def"] == {"0": "No finding", "1": "Pneumonia"}


def test_a_model_may_label_voxels_and_classify(tmp_path: Path) -> None:
    model = load_bundle(write_classifier(tmp_path, labels=3))
    output = model.network()(torch.zeros(1, 1, 8, 8, 8))
    assert output.segmented.mean.shape == (1, 3, 8, 8, 8)
    assert output.classified.logits.shape == (1, 2)
    assert set(model.metadata.network_data_format["outputs"]) == {"pred", "classification"}


def test_a_reconstruction_model_says_what_it_is_for(tmp_path: Path) -> None:
    config = NetworkConfig(**SMALL, reconstruction=ReconstructionConfig(resolutions=1))
    folder = write_bundle(
        tmp_path,
        network=config.model_dump(mode="json"),
        structures=(),
        reconstruction=ReconstructionSpec(task="denoising"),
    )
    model = load_bundle(folder)
    assert model.reconstruction is not None
    assert model.reconstruction.task == "denoising"
    assert model.network()(torch.zeros(1, 1, 8, 8, 8)).reconstructed.image.shape == (1, 1, 8, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structures": ()}, "expected structures, classes or a reconstruction, got none of them"),
        ({"classes": CLASSES[:1]}, "expected two or more classes, each with a key of its own, got normal"),
        ({"classes": (CLASSES[0], CLASSES[0])}, "got normal, normal"),
        ({"classes": ({"key": "No", "name": "No"}, {"key": "b", "name": "B"})}, "should match pattern"),
        ({"classes": ({"key": "a", "name": "A", "temperature": 0},)}, "greater than 0"),
    ],
)
def test_heads_that_make_no_sense_get_a_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        section(**changes)


def test_a_network_that_does_not_fit_the_classes_gets_a_sentence(tmp_path: Path) -> None:
    three = (*CLASSES, ClassSpec(key="other", name="Other"))
    folder = write_classifier(tmp_path, classes=three)
    with pytest.raises(BundleError, match=r"and 2 classes of images, its metadata names .* and 3 classes"):
        load_bundle(folder).network()
    folder = write_bundle(tmp_path, "denoiser", reconstruction=ReconstructionSpec())
    with pytest.raises(BundleError, match=r"names a reconstruction \(denoising\), its network has no head"):
        load_bundle(folder).network()


def _with_atlas(folder: Path, atlas: torch.Tensor) -> Path:
    return save_bundle(
        folder / "tiny",
        metadata(section()),
        network().state_dict(),
        card="# Tiny\n",
        licence="Apache-2.0\n",
        atlas=atlas,
        atlas_spacing_mm=(1.0, 1.0, 2.0),
    )


def test_the_atlas_comes_back_as_it_was_to_half_precision(tmp_path: Path) -> None:
    atlas = torch.rand((3, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    model = load_bundle(_with_atlas(tmp_path, atlas))
    assert model.atlas is not None
    assert model.atlas.dtype == torch.float32
    torch.testing.assert_close(model.atlas, atlas, rtol=0, atol=2**-11)
    assert model.atlas_spacing_mm == (1.0, 1.0, 2.0)
    assert (model.path / "models/atlas.safetensors").stat().st_size < 2 * atlas.numel() + 200


def test_a_model_without_atlas_has_none(tmp_path: Path) -> None:
    model = load_bundle(write_bundle(tmp_path))
    assert (model.atlas, model.atlas_spacing_mm) == (None, None)


def test_an_atlas_that_was_changed_or_is_missing_gets_a_sentence(tmp_path: Path) -> None:
    folder = _with_atlas(tmp_path, torch.ones(3, 4, 4, 4))
    file = folder / "models/atlas.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"atlas\.safetensors is not the file that the model was published"):
        _ = load_bundle(folder).atlas
    file.unlink()
    with pytest.raises(BundleError, match=r"incomplete: models/atlas\.safetensors is missing"):
        _ = load_bundle(folder).atlas
    with pytest.raises(BundleError, match="The values of the atlas of 'tiny' are not all finite"):
        _with_atlas(tmp_path / "other", torch.full((3, 2, 2, 2), torch.nan))


def test_models_of_the_first_format_load_as_they_did(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    file = folder / "configs/metadata.json"
    data = json.loads(file.read_text())
    for new in ("classes", "reconstruction", "atlas"):
        del data["dianet"][new]
    for new in ("reliable_path", "classification", "reconstruction"):
        del data["dianet"]["network"][new]
    data["dianet"]["format_version"] = 1
    file.write_text(json.dumps(data))
    model = load_bundle(folder)
    assert model.network_config == CONFIG
    assert (model.classes, model.reconstruction, model.atlas) == ((), None, None)
    assert isinstance(model.network(), DIANet)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_inference_json_of_a_classifier_runs_in_monai(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spatial_dims: int
) -> None:
    nibabel = pytest.importorskip("nibabel")
    bundle = write_classifier(tmp_path, spatial_dims=spatial_dims)
    shape = (9, 12, 1) if spatial_dims == 2 else (9, 12, 10)
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)  # (i, j, k), RAS
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "image.nii")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's own, at import and of its deprecated arguments
        from monai.bundle import ConfigParser

        parser = ConfigParser(json.loads((bundle / "configs/inference.json").read_text()))
        parser.update(
            {
                "bundle_root": str(bundle),
                "inputs": {"T1": str(tmp_path / "image.nii")},
                "device": "$torch.device('cpu')",
            }
        )
        parser.get_parsed_content("run")
    found = ast.literal_eval(capsys.readouterr().out.strip().splitlines()[-1])
    x = torch.from_numpy(normalise(array.transpose(2, 1, 0)))  # (k, j, i)
    x = torch.nn.functional.pad(x, (0, 1))[None]
    logits = load_bundle(bundle).network()(x if spatial_dims == 2 else x[None]).classified.logits[0]
    expected = torch.softmax(logits / torch.tensor([1.5, 2.0]), 0).tolist()
    assert found == pytest.approx({"normal": expected[0], "pneumonia": expected[1]}, abs=0.01)
