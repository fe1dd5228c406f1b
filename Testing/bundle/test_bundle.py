# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.acwi.quality import QualityCurve, QualityModel, VolumeRange
from DIANetLib.bundle import list_bundles, load_bundle, read_metadata, search_paths
from DIANetLib.bundle_schema import METADATA_SCHEMA_URL
from DIANetLib.errors import BundleError, OutputError
from Testing.bundle.tiny import CONFIG, localiser, network, section, structures, write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "models")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    monkeypatch.setenv("DIANET_MODELS", str(folder))
    return folder


def edit(bundle: Path, **changes: Any) -> None:
    file = bundle / "configs/metadata.json"
    data = json.loads(file.read_text())
    data["dianet"].update(changes)
    file.write_text(json.dumps(data))


def reweigh(bundle: Path, state: dict[str, torch.Tensor]) -> None:
    """Replace the weights and make hash and size in the metadata fit them."""
    import hashlib

    file = bundle / "models/model.safetensors"
    save_file(state, file)
    data = file.read_bytes()
    edit(bundle, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def test_what_is_saved_comes_back(bundle: Path) -> None:
    model = load_bundle(bundle)
    assert (model.name, model.version, model.path) == ("tiny", "1.0.0", bundle)
    assert [s.key for s in model.structures] == ["head", "tail"]
    assert model.structures == structures("head", "tail")
    assert model.window == (8, 12, 10)
    assert model.temperature == 1.5
    assert model.localiser is None
    assert model.load_localiser() is None
    assert model.network_config == CONFIG
    assert model.preprocess.spacing_mm == (1.0, 1.0, 1.0)
    assert model.modalities[0].matches("t1W")
    assert not model.modalities[0].matches("T2")
    assert model.ref.sha256 == model.sha256 == model.metadata.dianet.sha256


def test_a_correction_of_the_error_probability_comes_back_and_fits_the_classes(tmp_path: Path) -> None:
    correction = ErrorCalibration((0.0, 0.5, -0.25), (1.0, 0.75, 1.25))
    folder = write_bundle(tmp_path, error_calibration=correction)
    assert load_bundle(folder).error_calibration == correction
    with pytest.raises(ValueError, match="expected an error calibration of 3 classes, got 2"):
        section(error_calibration=ErrorCalibration((0.0, 0.5), (1.0, 0.75)))


def test_an_estimate_of_quality_comes_back_and_fits_the_structures(tmp_path: Path) -> None:
    curve = QualityCurve(-1.0, (0.5, 0.1), (1.0, 0.5), (-0.3, 0.2), VolumeRange(1.5, 0.2))
    quality = QualityModel(("agreement", "typicality"), {"tail": curve}, samples=10, cases=12)
    folder = write_bundle(tmp_path, quality=quality)
    assert load_bundle(folder).quality == quality
    assert load_bundle(write_bundle(tmp_path / "without")).quality is None

    data = json.loads((folder / "configs/metadata.json").read_text())["dianet"]["quality"]
    edit(folder, quality={**data, "structures": {"foot": data["structures"]["tail"]}})
    with pytest.raises(BundleError, match="expected quality of the structures alone, got foot"):
        load_bundle(folder)
    edit(folder, quality={**data, "features": ["agreement"]})
    with pytest.raises(BundleError, match="2 weights for 1 features"):
        load_bundle(folder)
    edit(folder, quality={**data, "features": ["luck", "typicality"]})
    with pytest.raises(BundleError, match=r"quality\.features"):
        load_bundle(folder)


def test_a_bundle_has_the_files_of_a_monai_bundle(bundle: Path) -> None:
    files = sorted(str(p.relative_to(bundle)) for p in bundle.rglob("*") if p.is_file())
    assert files == [
        "LICENSE",
        "configs/inference.json",
        "configs/metadata.json",
        "docs/README.md",
        "models/model.safetensors",
    ]
    assert sorted(p.name for p in bundle.parent.iterdir()) == ["tiny"]


def test_metadata_has_every_key_that_monais_schema_requires(bundle: Path) -> None:
    data = json.loads((bundle / "configs/metadata.json").read_text())
    texts = ["schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description"]
    assert all(isinstance(data[key], str) and data[key] for key in [*texts, "authors", "copyright"])
    assert data["schema"] == METADATA_SCHEMA_URL
    assert isinstance(data["required_packages_version"], dict)
    tensors = data["network_data_format"]
    for tensor in (tensors["inputs"]["image"], tensors["outputs"]["pred"]):
        assert isinstance(tensor["type"], str)
        assert isinstance(tensor["format"], str)
        assert isinstance(tensor["dtype"], str)
        assert isinstance(tensor["num_channels"], int)
        assert tensor["spatial_shape"] == [10, 12, 8]
        assert isinstance(tensor["value_range"], list)
    assert tensors["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "Head", "2": "Tail"}


def test_weights_are_stored_as_float16_and_loaded_as_float32(bundle: Path) -> None:
    stored = load_file(bundle / "models/model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    net = load_bundle(bundle).network()
    assert not net.training
    expected = network().state_dict()
    for key, value in net.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[key].half().float(), rtol=0, atol=0)
    x = torch.randn(1, 1, 8, 8, 8)
    torch.testing.assert_close(net(x).segmented.mean, network()(x).segmented.mean, rtol=0.02, atol=0.02)


def test_the_network_is_built_once_and_can_be_released(bundle: Path) -> None:
    model = load_bundle(bundle)
    first = model.network()
    assert model.network("cpu") is first
    model.release()
    assert model.network() is not first


def test_a_2d_network_can_be_saved_and_loaded(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"spatial_dims": 2}).model_dump(mode="json")
    model = load_bundle(write_bundle(tmp_path, network=config, window=(8, 8, 1)))
    assert model.network()(torch.zeros(1, 1, 8, 8)).segmented.mean.shape == (1, 3, 8, 8)


def test_models_are_found_by_name_in_the_folders_of_dianet_models(bundle: Path, models: Path) -> None:
    assert search_paths()[0] == models
    assert load_bundle("tiny").path == bundle


def test_a_folder_is_found_by_its_path_relative_to_the_working_directory(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    assert load_bundle("./tiny").path == bundle
    assert load_bundle("tiny").path == bundle


def test_an_unknown_model_gets_the_list_of_known_ones(bundle: Path, models: Path) -> None:
    with pytest.raises(BundleError, match=r"There is no model 'lung'; known models: tiny"):
        load_bundle("lung")


def test_a_missing_folder_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="There is no model"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="There is no model ''"):
        load_bundle("")


def test_a_file_in_place_of_a_folder_gets_a_sentence(bundle: Path) -> None:
    with pytest.raises(BundleError, match="is a file, expected a model folder"):
        load_bundle(bundle / "models/model.safetensors")


def test_a_folder_without_metadata_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a model folder: configs/metadata\.json is missing"):
        load_bundle(tmp_path)


def test_a_folder_without_weights_is_called_incomplete(bundle: Path) -> None:
    (bundle / "models/model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"incomplete: models/model\.safetensors is missing"):
        load_bundle(bundle)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]x", "\ufffd", '{"a": ' + "[" * 100_000])
def test_damaged_json_gets_a_sentence(bundle: Path, text: str) -> None:
    (bundle / "configs/metadata.json").write_text(text)
    with pytest.raises(BundleError, match=r"metadata\.json is damaged: it is not valid JSON"):
        load_bundle(bundle)


def test_metadata_in_another_encoding_gets_a_sentence(bundle: Path) -> None:
    (bundle / "configs/metadata.json").write_bytes(b"\xff\xfe{\x00}")
    with pytest.raises(BundleError, match="is damaged"):
        load_bundle(bundle)


@pytest.mark.parametrize("text", ["[]", "{}", '{"version": "1", "task": "spleen"}', '{"dianet": 3}'])
def test_a_foreign_monai_bundle_gets_a_sentence(bundle: Path, text: str) -> None:
    (bundle / "configs/metadata.json").write_text(text)
    with pytest.raises(BundleError, match=r'is not a DIANet model: .* has no section "dianet"'):
        load_bundle(bundle)


def test_a_newer_format_version_asks_for_an_update(bundle: Path) -> None:
    edit(bundle, format_version=7, something_new=True)
    with pytest.raises(BundleError, match=r"format version 7, this DIANet reads up to 3\. Update DIANet"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, r"dianet\.temperature: Input should be greater than 0, got 0\.0"),
        ({"window": [8, 0, 8]}, r"dianet\.window: expected three positive numbers of voxels"),
        ({"modalities": []}, r"dianet\.modalities: "),
        ({"unknown": 1}, r"dianet\.unknown: Extra inputs are not permitted"),
        ({"name": "../evil"}, r"dianet\.name: expected a name of letters"),
        (
            {"localiser": {"model": "../../etc", "structures": ["a"]}},
            r"dianet\.localiser\.model: expected a name",
        ),
        ({"localiser": {"model": "tiny", "structures": ["a"]}}, "cannot be its own localiser"),
        ({"modalities": [{"name": "T1"}, {"name": "x", "aliases": ["t1"]}]}, "every name and alias"),
        ({"sha256": "xyz"}, r"dianet\.sha256"),
    ],
)
def test_metadata_out_of_range_names_the_field(bundle: Path, changes: dict[str, Any], message: str) -> None:
    edit(bundle, **changes)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle)


def test_a_structure_out_of_range_gets_a_sentence(bundle: Path) -> None:
    data = json.loads((bundle / "configs/metadata.json").read_text())
    parts = data["dianet"]["structures"]
    edit(bundle, structures=[{**parts[0], "key": "No good"}, parts[1]])
    with pytest.raises(BundleError, match="does not describe a usable model: Structure key 'No good'"):
        load_bundle(bundle)
    edit(bundle, structures=[parts[1], parts[0]])
    with pytest.raises(BundleError, match=r"values to be 1, 2, \.\.\. in order, got \[2, 1\]"):
        load_bundle(bundle)


def test_truncated_weights_get_a_sentence_with_both_sizes(bundle: Path) -> None:
    file = bundle / "models/model.safetensors"
    size = file.stat().st_size
    os.truncate(file, size - 100)
    with pytest.raises(BundleError, match=rf"truncated: it has {size - 100:,} bytes, expected {size:,}"):
        load_bundle(bundle)


@pytest.mark.parametrize("change", ["flip", "append"])
def test_tampered_weights_get_a_sentence(bundle: Path, change: str) -> None:
    file = bundle / "models/model.safetensors"
    data = bytearray(file.read_bytes())
    if change == "flip":
        data[-1] ^= 1
    else:
        data += b"\0"
    file.write_bytes(data)
    with pytest.raises(BundleError, match="is not the file that the model was published with"):
        load_bundle(bundle)


def test_a_damaged_safetensors_header_gets_a_sentence(bundle: Path) -> None:
    import hashlib

    junk = b"\x10\0\0\0\0\0\0\0{not json at all"
    (bundle / "models/model.safetensors").write_bytes(junk)
    edit(bundle, sha256=hashlib.sha256(junk).hexdigest(), size_bytes=len(junk))
    model = load_bundle(bundle)
    with pytest.raises(BundleError, match="is not a readable safetensors file"):
        model.network()


def test_weights_of_another_architecture_name_the_first_difference_with_shapes(bundle: Path) -> None:
    wider = CONFIG.model_copy(update={"widths": (5, 6)})
    reweigh(bundle, network(config=wider).state_dict())
    model = load_bundle(bundle)
    key = next(iter(network().state_dict()))
    pattern = rf"another architecture .* '{key}' is of shape \(5, 1, .*\), expected of shape \(4, 1, "
    with pytest.raises(BundleError, match=pattern):
        model.network()


@pytest.mark.parametrize("change", ["less", "more"])
def test_missing_and_additional_weights_get_a_sentence(bundle: Path, change: str) -> None:
    state = dict(network().state_dict())
    if change == "less":
        state.pop("latent.mean.weight")
        message = "'latent.mean.weight' is missing, expected of shape"
    else:
        state["more"] = torch.zeros(3)
        message = r"'more' is of shape \(3,\), expected missing"
    reweigh(bundle, state)
    model = load_bundle(bundle)
    with pytest.raises(BundleError, match=message):
        model.network()


def test_weights_that_are_not_finite_get_a_sentence(bundle: Path) -> None:
    state = network().state_dict()
    state["latent.mean.weight"][0] = torch.nan
    reweigh(bundle, state)
    model = load_bundle(bundle)
    with pytest.raises(BundleError, match=r"not all finite: 'latent\.mean\.weight'"):
        model.network()


def test_a_network_that_does_not_fit_the_structures_gets_a_sentence(bundle: Path) -> None:
    edit(bundle, network=CONFIG.model_copy(update={"classes": 7}).model_dump(mode="json"))
    model = load_bundle(bundle)
    with pytest.raises(BundleError, match="its network has 1 inputs, 7 labels of voxels and 0 classes"):
        model.network()


@pytest.mark.parametrize("name", ["network", "preprocess"])
def test_fields_of_the_network_or_the_preprocessing_are_validated(bundle: Path, name: str) -> None:
    edit(bundle, **{name: {"classes": 3, "nonsense": 1}})
    model = load_bundle(bundle)
    with pytest.raises(BundleError, match=rf"dianet\.{name}\."):
        _ = model.network_config, model.preprocess


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["model.pt", "model.ts", "model.safetensors"])
@pytest.mark.parametrize("container", ["zip", "pickle"])
def test_a_pickled_file_is_refused_and_never_opened(
    bundle: Path, tmp_path: Path, name: str, container: str
) -> None:
    marker = tmp_path / "executed"
    (bundle / "models/model.safetensors").unlink()
    file = bundle / "models" / name
    if container == "zip":
        torch.save({"state": _Evil(marker)}, file)
    else:
        file.write_bytes(pickle.dumps(_Evil(marker)))
    with pytest.raises(BundleError, match="can run code when it is opened, so DIANet does not open it"):
        load_bundle(bundle)
    assert not marker.exists()


def test_expressions_in_the_configs_are_never_evaluated(bundle: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    expression = f"$__import__('pathlib').Path({str(marker)!r}).touch()"
    (bundle / "configs/inference.json").write_text(json.dumps({"imports": [expression]}))
    edit(bundle, training={"data": expression})
    load_bundle(bundle).network()
    assert not marker.exists()


def test_a_localiser_is_found_beside_its_user(tmp_path: Path) -> None:
    where = write_bundle(tmp_path, "where")
    model = load_bundle(write_bundle(tmp_path, "tiny", localiser=localiser()))
    found = model.load_localiser()
    assert found is not None
    assert found.path == where


def test_a_missing_localiser_gets_a_sentence(tmp_path: Path) -> None:
    model = load_bundle(write_bundle(tmp_path, "tiny", localiser=localiser()))
    with pytest.raises(
        BundleError, match=r"'tiny' needs the model 'where' to find the region .* no model 'where'"
    ):
        model.load_localiser()


def test_listing_tells_good_models_from_bad_ones(bundle: Path) -> None:
    folder = bundle.parent
    shutil.copytree(bundle, folder / "broken")
    (folder / "broken/configs/metadata.json").write_text("{")
    shutil.copytree(bundle, folder / "tampered")
    data = bytearray((folder / "tampered/models/model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "tampered/models/model.safetensors").write_bytes(data)
    (folder / "notes").mkdir()
    quick = {entry.name: entry for entry in list_bundles([folder, folder / "nowhere"])}
    assert sorted(quick) == ["broken", "tampered", "tiny"]
    assert quick["tiny"].problem is None
    assert quick["tiny"].metadata == read_metadata(bundle)
    assert "is damaged" in str(quick["broken"].problem)
    assert quick["tampered"].problem is None
    full = {entry.name: entry for entry in list_bundles([folder], verify=True)}
    assert "published with" in str(full["tampered"].problem)


def test_listing_models_imports_neither_torch_nor_monai(bundle: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from DIANetLib.bundle import list_bundles;"
        f"assert list_bundles([Path({str(bundle.parent)!r})])[0].problem is None;"
        "assert not {'torch', 'monai', 'SimpleITK', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_saving_refuses_to_replace_a_folder_unless_told_to(bundle: Path) -> None:
    from DIANetLib.bundle import save_bundle
    from Testing.bundle.tiny import metadata

    before = load_bundle(bundle).sha256
    described, state = metadata(section()), network(seed=1).state_dict()
    with pytest.raises(OutputError, match="is there already"):
        save_bundle(bundle, described, state, card="", licence="")
    save_bundle(bundle, described, state, card="", licence="", overwrite=True)
    assert load_bundle(bundle).sha256 != before
    assert sorted(p.name for p in bundle.parent.iterdir()) == ["tiny"]


def test_saving_checks_the_weights_and_leaves_nothing_behind(tmp_path: Path) -> None:
    from DIANetLib.bundle import save_bundle
    from Testing.bundle.tiny import metadata

    described = metadata(section())
    huge = {key: torch.full_like(value, 1e6) for key, value in network().state_dict().items()}
    with pytest.raises(BundleError, match=r"as float16 are not all finite"):
        save_bundle(tmp_path / "tiny", described, huge, card="", licence="")
    with pytest.raises(BundleError, match="another architecture"):
        save_bundle(tmp_path / "tiny", described, {}, card="", licence="")
    with pytest.raises(OutputError, match="is called 'other'"):
        save_bundle(tmp_path / "other", described, {}, card="", licence="")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write the model folder"):
        save_bundle(tmp_path / "file" / "tiny", described, network().state_dict(), card="", licence="")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
