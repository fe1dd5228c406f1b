# SPDX-License-Identifier: Apache-2.0
"""Layouts of plain folders, read from tiny files of exactly that layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from DIANetLib.errors import ConfigError, InputError
from DIANetLib.formats.image import write_volume
from DIANetLib.preprocess import PreprocessConfig
from DIANetLib.volume import Geometry, Volume
from Testing.training.tiny import config
from training.config import DataConfig, TrainingConfig
from training.datasets import find_cases, load_case, prepare_case, read_case, split_cases

LESION = {
    "key": "lesion",
    "name": "Lesion",
    "color": [255, 0, 0],
    "source_values": [254, 255],
    "type": {"value": "52988006", "meaning": "Lesion"},
}


def data_config(**fields: Any) -> DataConfig:
    return DataConfig(**{"folds": 2, "inner": 1, **fields})


def training_config(data: DataConfig, **preprocess: Any) -> TrainingConfig:
    """Just what preparing a case reads; what else a fit needs is left as it is."""
    changes = {"data": data, "preprocess": PreprocessConfig(spacing_mm=(None, None, None), **preprocess)}
    return config().model_copy(update=changes)


def modalities(*names: str, required: bool = True) -> list[dict[str, Any]]:
    return [{"name": name, "required": required} for name in names]


def grid(size: tuple[int, int, int], code: str = "LPS") -> Geometry:
    letters = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    direction = np.zeros((3, 3))
    for axis, letter in enumerate(code):
        world, sign = letters[letter]
        direction[world, axis] = sign
    return Geometry(size, (1.0, 1.0, 3.0), (5.0, -7.0, 9.0), direction)


def noise(geometry: Geometry, seed: int) -> Volume:
    return Volume(np.random.default_rng(seed).random(geometry.shape, np.float32), geometry)


class TestOneFilePerModality:
    config = data_config(
        format="modality-files", modalities=modalities("T1", "PD", "FLAIR"), structures=[LESION]
    )

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "images").mkdir()
        (tmp_path / "labels").mkdir()
        for number, name in enumerate(["301D2", "302D1"]):
            geometry = grid((6, 5, 4))
            for place, modality in enumerate(["FLAIR", "PD", "T1", "T2"]):
                image = noise(geometry, 10 * number + place)
                write_volume(image, tmp_path / "images" / f"{name}_{modality}.nii.gz")
            labels = np.zeros(geometry.shape, np.uint8)
            labels[1, 2, 3] = 255 - number
            write_volume(Volume(labels, geometry), tmp_path / "labels" / f"{name}.nii.gz")
        return tmp_path

    def test_modalities_come_in_the_configurations_order(self, folder: Path):
        first, second = find_cases(folder, self.config)

        assert (first.name, second.name) == ("301D2", "302D1")
        names = [path.name for path in second.images if path]
        assert names == ["302D1_T1.nii.gz", "302D1_PD.nii.gz", "302D1_FLAIR.nii.gz"]
        source = read_case(second, self.config)
        assert source.labels is not None
        assert source.labels.array.sum() == 1
        assert source.labels.array[1, 2, 3] == 1
        np.testing.assert_array_equal(source.present[2].array, noise(grid((6, 5, 4)), 10).array)

    def test_an_alias_in_other_capitals_finds_the_file(self, folder: Path):
        aliased = data_config(
            format="modality-files",
            modalities=[{"name": "Fluid", "aliases": ["Flair"]}],
            structures=[LESION],
        )

        assert str(find_cases(folder, aliased)[0].images[0]).endswith("301D2_FLAIR.nii.gz")

    def test_a_missing_modality_is_zero_and_said_to_be_missing_if_it_may_be(self, folder: Path):
        (folder / "images" / "301D2_PD.nii.gz").unlink()
        with pytest.raises(InputError, match=r"case 301D2 has no PD image, only FLAIR, T1, T2\..*required"):
            find_cases(folder, self.config)
        lenient = data_config(
            format="modality-files",
            modalities=modalities("T1", "PD", "FLAIR", required=False),
            structures=[LESION],
        )

        prepared = load_case(find_cases(folder, lenient)[0], training_config(lenient))

        assert prepared.available == (True, False, True)
        assert prepared.image.shape == (3, 4, 5, 6)
        assert not prepared.image[1].any()
        assert prepared.image[0].std() > 0.5
        assert prepared.image[2].std() > 0.5

    def test_a_case_without_any_modality_and_labels_without_images_are_refused(self, folder: Path):
        only_pd = data_config(
            format="modality-files", modalities=modalities("PD", required=False), structures=[LESION]
        )
        (folder / "images" / "301D2_PD.nii.gz").unlink()
        with pytest.raises(InputError, match="case 301D2 has none of its 1 modalities"):
            read_case(find_cases(folder, only_pd)[0], only_pd)
        for path in (folder / "images").glob("302D1_*"):
            path.unlink()
        with pytest.raises(InputError, match=r"label .*302D1.nii.gz has no image .*302D1_MODALITY"):
            find_cases(folder, self.config)

    def test_without_structures_the_images_alone_are_the_cases(self, folder: Path):
        (folder / "labels" / "301D2.nii.gz").unlink()
        unlabelled = data_config(
            format="modality-files",
            modalities=modalities("T1"),
            targets=[{"key": "a", "name": "A"}, {"key": "b", "name": "B"}],
        )

        cases = find_cases(folder, unlabelled)

        assert [case.labels is None for case in cases] == [True, False]
        assert read_case(cases[0], unlabelled).labels is None


class TestMedmnist:
    config = data_config(
        format="medmnist",
        modalities=modalities("X-ray"),
        targets=[
            {"key": "normal", "name": "Normal", "source_values": ["0"]},
            {"key": "pneumonia", "name": "Pneumonia", "source_values": ["1"]},
        ],
    )

    def write(self, folder: Path, **changes: Any) -> Path:
        rng = np.random.default_rng(0)
        arrays = {
            "train_images": rng.integers(0, 256, (5, 6, 4), np.uint8),
            "val_images": rng.integers(0, 256, (2, 6, 4), np.uint8),
            "train_labels": np.array([[0], [1], [1], [0], [1]], np.uint8),
            "val_labels": np.array([[1], [0]], np.uint8),
        }
        np.savez(folder / "pneumonia.npz", **{**arrays, **changes})
        return folder

    def test_an_image_is_a_slice_with_its_class(self, tmp_path: Path):
        cases = find_cases(self.write(tmp_path), self.config)

        assert [case.target for case in cases] == [0, 1, 1, 0, 1, 1, 0]
        assert cases[5].name == "val_00000"
        prepared = load_case(cases[5], training_config(self.config, orientation="source"))
        assert prepared.image.shape == (1, 1, 6, 4)
        assert prepared.labels is None
        assert prepared.target == 1
        with np.load(tmp_path / "pneumonia.npz") as file:
            pixels = file["val_images"][0].ravel()
        assert np.corrcoef(prepared.image.ravel(), pixels)[0, 1] > 0.99

    def test_the_validation_part_is_held_out(self, tmp_path: Path):
        cases = find_cases(self.write(tmp_path), self.config)

        split = split_cases(cases, self.config, 1)

        assert split.held_out == ("val_00000", "val_00001")
        assert len(split.train) == 4

    def test_colours_are_modalities(self, tmp_path: Path):
        colours = np.random.default_rng(1).integers(0, 256, (2, 6, 4, 3), np.uint8)
        folder = self.write(tmp_path, val_images=colours)
        rgb = self.config.model_copy(
            update={"modalities": data_config(modalities=modalities("R", "G", "B")).modalities}
        )

        source = read_case(find_cases(folder, rgb)[6], rgb)

        np.testing.assert_array_equal(source.present[1].array[0], colours[1, :, :, 1])
        with pytest.raises(InputError, match="images of 1 channels, got a model of 3"):
            read_case(find_cases(folder, rgb)[0], rgb)

    def test_what_is_no_such_file_is_told_in_a_sentence(self, tmp_path: Path):
        with pytest.raises(InputError, match=r"holds 0 .npz files, expected one"):
            find_cases(tmp_path, self.config)
        with pytest.raises(InputError, match="train_00001 is of the class '2', expected one of 0, 1"):
            find_cases(self.write(tmp_path, train_labels=np.array([[0], [2], [1], [0], [1]])), self.config)
        with pytest.raises(InputError, match=r"val_labels has shape \(1, 1\), expected one class for each"):
            find_cases(self.write(tmp_path, val_labels=np.array([[1]])), self.config)
        np.savez(tmp_path / "pneumonia.npz", train_images=np.zeros((1, 2, 2)))
        with pytest.raises(InputError, match="lacks train_labels, val_images, val_labels"):
            find_cases(tmp_path, self.config)
        (tmp_path / "pneumonia.npz").write_bytes(b"PK\x03\x04 and no more")
        with pytest.raises(InputError, match="cannot be read"):
            find_cases(tmp_path, self.config)


class TestSlices:
    def options(self, **changes: Any) -> DataConfig:
        options = {"count": 2, "between": [0.0, 1.0]}
        return data_config(format="slices", modalities=modalities("T1"), options=options, **changes)

    @pytest.mark.parametrize("code", ["LPS", "PIR", "SAL"])
    def test_slices_are_axial_and_count_from_below_whatever_the_files_axes(self, tmp_path: Path, code: str):
        """In a volume whose value is the height in mm, an axial slice is constant."""
        (tmp_path / "images").mkdir()
        geometry = grid((8, 8, 8), code)
        points = np.stack(np.meshgrid(*(np.arange(8),) * 3, indexing="ij"), -1)
        height = geometry.index_to_world(points)[..., 2].transpose(2, 1, 0)
        write_volume(Volume(height.astype(np.float32), geometry), tmp_path / "images" / "a.nii.gz")

        cases = find_cases(tmp_path, self.options())
        slices = [read_case(case, self.options()).present[0] for case in cases]

        assert [case.name for case in cases] == ["a_000", "a_001"]
        assert {case.group for case in cases} == {"a"}
        # Two slices over the whole extent lie at a quarter and three quarters: places 2 and 6 of 8.
        heights = np.unique(height)
        assert [np.unique(part.array).tolist() for part in slices] == [[heights[2]], [heights[6]]]
        for part in slices:
            centre = part.geometry.index_to_world((np.array(part.geometry.size) - 1) / 2)
            assert centre[2] == pytest.approx(part.array.flat[0], abs=1e-4)

    def test_a_slice_has_the_labels_of_its_plane(self, tmp_path: Path):
        (tmp_path / "imagesTr").mkdir()
        (tmp_path / "labelsTr").mkdir()
        geometry = grid((6, 5, 4))
        labels = np.zeros(geometry.shape, np.uint8)
        labels[3, 1, 2] = 254
        write_volume(noise(geometry, 0), tmp_path / "imagesTr" / "a.nii.gz")
        with pytest.raises(InputError, match=r"image .*a.nii.gz has no labels"):
            find_cases(tmp_path, self.options(structures=[LESION]))
        write_volume(Volume(labels, geometry), tmp_path / "labelsTr" / "a.nii.gz")
        labelled = self.options(structures=[LESION])

        low, high = (load_case(case, training_config(labelled)) for case in find_cases(tmp_path, labelled))

        assert low.image.shape == high.image.shape == (1, 1, 5, 6)
        assert low.labels is not None
        assert high.labels is not None
        assert (low.labels.sum(), high.labels.sum()) == (0, 1)

    def test_wrong_settings_and_folders_are_told_in_a_sentence(self, tmp_path: Path):
        with pytest.raises(InputError, match="holds no volumes"):
            find_cases(tmp_path, self.options())
        with pytest.raises(ConfigError, match=r"options: expected settings of the format slices \(between"):
            config(data__format="slices", data__options={"plane": "axial"})
        with pytest.raises(ConfigError, match=r"options.*between: expected two rising numbers"):
            config(data__format="slices", data__options={"between": [0.9, 0.3]})
        with pytest.raises(ConfigError, match=r"of the format decathlon \(none\), got count"):
            config(data__options={"count": 3})


class TestKspace:
    config = data_config(format="bart", modalities=modalities("real", "imaginary"))

    def write(self, folder: Path, images: np.ndarray, header: str) -> Path:
        """Coil images (C, j, i) as k-space with i fastest; the transform is written out, as an oracle."""

        def matrix(size: int) -> np.ndarray:
            place = np.arange(size) - size // 2
            return np.exp(-2j * np.pi * np.outer(place, place) / size) / np.sqrt(size)

        kspace = np.einsum("vj,cji,ui->cvu", matrix(images.shape[1]), images, matrix(images.shape[2]))
        kspace.astype("<c8").tofile(folder / "full.cfl")
        (folder / "full.hdr").write_text(f"# Dimensions\n{header}\n")
        return folder

    @pytest.fixture
    def images(self) -> np.ndarray:
        rng = np.random.default_rng(3)
        return rng.normal(size=(2, 5, 8)) + 1j * rng.normal(size=(2, 5, 8))

    @pytest.mark.parametrize("header", ["1 8 5 2 1 ", "8 5 1 2"])
    def test_a_coils_parts_are_those_of_the_image_that_was_measured(
        self, tmp_path: Path, images: np.ndarray, header: str
    ):
        cases = find_cases(self.write(tmp_path, images, header), self.config)

        assert [case.name for case in cases] == ["full_coil00", "full_coil01"]
        assert {case.group for case in cases} == {"full"}
        source = read_case(cases[1], self.config)
        real, imaginary = (volume.array[0] for volume in source.present)
        np.testing.assert_allclose(real + 1j * imaginary, images[1], atol=1e-5)

    def test_both_parts_are_scaled_alike(self, tmp_path: Path, images: np.ndarray):
        folder = self.write(tmp_path, images, "1 8 5 2")
        settings = training_config(self.config, orientation="source", normalisation="magnitude")

        image = load_case(find_cases(folder, self.config)[0], settings).image[:, 0]

        ratio = (image[0] + 1j * image[1]) / images[0]
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)
        assert abs(ratio[0, 0].imag) < 1e-5

    def test_combined_coils_give_back_an_image_seen_through_smooth_sensitivities(self, tmp_path: Path):
        j, i = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64), indexing="ij")
        truth = ((i / 0.8) ** 2 + (j / 0.6) ** 2 < 1) * (1.0 + 0.5 * (np.hypot(i - 0.2, j) < 0.2))
        coils = np.stack([np.exp(0.4 * i + 1j * j), np.exp(-0.4 * i - 1j * j + 0.3j)])
        coils = coils / np.sqrt((np.abs(coils) ** 2).sum(0))
        combined = self.config.model_copy(update={"options": {"coils": "combined"}})

        cases = find_cases(self.write(tmp_path, coils * truth, "1 64 64 2"), combined)
        real, imaginary = (volume.array[0] for volume in read_case(cases[0], combined).present)

        assert len(cases) == 1
        inside = (i / 0.7) ** 2 + (j / 0.5) ** 2 < 1  # sensitivities are rough where the object ends
        np.testing.assert_allclose(real[inside], truth[inside], atol=0.03)
        assert np.abs(imaginary[inside]).max() < 0.15

    def test_what_is_no_such_file_is_told_in_a_sentence(self, tmp_path: Path, images: np.ndarray):
        with pytest.raises(InputError, match=r"holds no .cfl file"):
            find_cases(tmp_path, self.config)
        with pytest.raises(InputError, match="expected a model of 2 modalities"):
            find_cases(tmp_path, data_config(format="bart", modalities=modalities("T1")))
        self.write(tmp_path, images, "1 8 5 3")
        with pytest.raises(InputError, match=r"holds 80 numbers, expected 120 by its header"):
            read_case(find_cases(tmp_path, self.config)[0], self.config)
        (tmp_path / "full.hdr").write_text("# Dimensions\n1 8 5 2 1 7\n")
        with pytest.raises(InputError, match=r"expected sizes of three axes and of coils, got \[1, 8, 5, 2"):
            find_cases(tmp_path, self.config)
        (tmp_path / "full.hdr").write_text("nothing\n")
        with pytest.raises(InputError, match="expected the sizes of the axes in the second line"):
            find_cases(tmp_path, self.config)
        (tmp_path / "full.hdr").unlink()
        with pytest.raises(InputError, match=r"full.cfl has no header full.hdr"):
            find_cases(tmp_path, self.config)


class TestBrats21:
    regions = (("necrosis", 1), ("oedema", 2), ("enhancing", 4))
    config = data_config(
        format="brats21",
        modalities=[
            {"name": "T1"},
            {"name": "T1c", "aliases": ["t1ce"]},
            {"name": "T2"},
            {"name": "FLAIR"},
        ],
        structures=[{**LESION, "key": key, "source_values": [value]} for key, value in regions],
        regions=[
            {"key": "whole", "name": "Whole", "structures": ["necrosis", "oedema", "enhancing"]},
            {"key": "core", "name": "Core", "structures": ["necrosis", "enhancing"]},
        ],
    )

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        geometry = grid((6, 5, 4))
        for number, name in enumerate(["BraTS2021_00000", "BraTS2021_00002"]):
            patient = tmp_path / "BraTS2021_Training_Data" / name
            patient.mkdir(parents=True)
            for place, ending in enumerate(["flair", "t1", "t1ce", "t2"]):
                write_volume(noise(geometry, 10 * number + place), patient / f"{name}_{ending}.nii.gz")
            labels = np.zeros(geometry.shape, np.uint8)
            labels[0, 0, :4] = [0, 1, 2, 4]
            write_volume(Volume(labels, geometry), patient / f"{name}_seg.nii.gz")
        return tmp_path

    def test_patients_are_found_in_the_release_with_exclusive_classes(self, folder: Path):
        cases = find_cases(folder, self.config)

        assert [case.name for case in cases] == ["BraTS2021_00000", "BraTS2021_00002"]
        endings = [str(path).rpartition("_")[2] for path in cases[1].images]
        assert endings == ["t1.nii.gz", "t1ce.nii.gz", "t2.nii.gz", "flair.nii.gz"]
        source = read_case(cases[1], self.config)
        assert source.labels is not None
        assert source.labels.array[0, 0].tolist() == [0, 1, 2, 3, 0, 0]
        np.testing.assert_array_equal(source.present[1].array, noise(grid((6, 5, 4)), 12).array)
        prepared = prepare_case(source, training_config(self.config))
        assert prepared.image.shape == (4, 4, 5, 6)

    def test_a_bad_layout_is_told_in_a_sentence(self, folder: Path):
        patient = folder / "BraTS2021_Training_Data" / "BraTS2021_00002"
        (patient / "BraTS2021_00002_seg.nii.gz").unlink()
        with pytest.raises(InputError, match=r"BraTS2021_00002 has no annotation BraTS2021_00002_seg.nii.gz"):
            find_cases(folder, self.config)
        (patient / "BraTS2021_00002_t2.nii.gz").unlink()
        with pytest.raises(InputError, match=r"00002 has no annotation|00002 has no T2 image"):
            find_cases(folder, self.config)
        without = self.config.model_copy(update={"structures": (), "regions": ()})
        with pytest.raises(InputError, match="BraTS2021_00002 has no T2 image, only flair, t1, t1ce"):
            find_cases(folder, without)
        with pytest.raises(InputError, match="holds no folder BraTS2021_NNNNN"):
            find_cases(patient / "nowhere", self.config)
