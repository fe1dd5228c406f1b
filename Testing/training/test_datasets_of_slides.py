# SPDX-License-Identifier: Apache-2.0
"""Public releases with whole slides, read from tiny files in exactly their layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from DIANetLib.errors import InputError
from DIANetLib.formats.image import write_volume
from DIANetLib.preprocess import PreprocessConfig
from DIANetLib.volume import Geometry, Volume
from Testing.training.slide_files import asap, rectangle, slide_pixels, write_slide
from Testing.training.tiny import config
from training.config import DataConfig, TrainingConfig
from training.datasets import find_cases, load_case, read_case, split_cases

COLOURS = [{"name": name} for name in ("red", "green", "blue")]
TILES = {"tile": 32, "spacing_um": 0.5}
METASTASIS = {
    "key": "metastasis",
    "name": "Metastasis",
    "color": [255, 0, 0],
    "source_values": [1],
    "type": {"value": "14799000", "meaning": "Neoplasm, Secondary"},
}


def data_config(**fields: Any) -> DataConfig:
    return DataConfig(**{"folds": 2, "inner": 1, "modalities": COLOURS, "options": TILES, **fields})


def classes(*values: str) -> list[dict[str, Any]]:
    return [{"key": f"class_{n}", "name": value, "source_values": [value]} for n, value in enumerate(values)]


def training_config(data: DataConfig) -> TrainingConfig:
    """Just what preparing a tile reads; what else a fit needs is left as it is."""
    own = PreprocessConfig(spacing_mm=(None, None, None), orientation="source")
    return config().model_copy(update={"data": data, "preprocess": own})


#: A slide with a lesion, outlined; one without; one with a lesion that nobody outlined; another centre's.
STAGES = {
    "patient_004.zip": "pN1",
    "patient_004_node_4.tif": "micro",
    "patient_004_node_0.tif": "negative",
    "patient_004_node_1.tif": "macro",
    "patient_021.zip": "pN0",
    "patient_021_node_0.tif": "negative",
}


class TestCamelyon17:
    segmented = data_config(format="camelyon17", structures=[METASTASIS])
    classified = data_config(format="camelyon17", targets=classes("negative", "itc", "micro", "macro"))

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        training = tmp_path / "training"
        for name in STAGES:
            if name.endswith(".tif"):
                centre = "center_1" if "_021_" in name else "center_0"
                within = Path("patient_004") if "_node_1" in name else Path()
                write_slide(training / centre / within / name)
        (training / "lesion_annotations").mkdir()
        outline = asap(("metastases", rectangle(64, 0, 80, 40)), ("normal", rectangle(64, 0, 68, 4)))
        (training / "lesion_annotations" / "patient_004_node_4.xml").write_text(outline)
        rows = "\n".join(f"{name},{stage}" for name, stage in STAGES.items())
        (training / "stages.csv").write_text(f"patient,stage\n{rows}\n")
        return tmp_path

    def test_tiles_of_outlined_and_of_negative_slides_have_labels(self, folder: Path):
        cases = find_cases(folder, self.segmented)

        slides = {case.images[0].name for case in cases if case.images[0]}
        assert slides == {name for name in STAGES if "tif" in name} - {"patient_004_node_1.tif"}
        assert {case.group for case in cases} == {"patient_004", "patient_021"}
        lesion = next(case for case in cases if case.name == "patient_004_node_4_x64_y0")
        source = read_case(lesion, self.segmented)
        assert source.labels is not None
        expected = np.zeros((32, 32), np.uint8)
        expected[:, :16] = 1
        expected[:4, :4] = 0
        np.testing.assert_array_equal(source.labels.array[0], expected)
        negative = next(case for case in cases if case.name == "patient_021_node_0_x64_y0")
        labels = read_case(negative, self.segmented).labels
        assert labels is not None
        assert not labels.array.any()

    def test_a_tile_has_its_colours_as_modalities_and_its_place(self, folder: Path):
        case = find_cases(folder, self.segmented)[0]
        _level, x, y, side = case.place

        prepared = load_case(case, training_config(self.segmented))
        source = read_case(case, self.segmented)

        assert side == 32
        assert prepared.image.shape == (3, 1, 32, 32)
        assert prepared.labels is not None
        assert prepared.labels.shape == (1, 32, 32)
        pixels = slide_pixels()[y : y + 32, x : x + 32]
        for colour, volume in enumerate(source.present):
            np.testing.assert_array_equal(volume.array[0], pixels[..., colour])
        np.testing.assert_allclose(source.present[0].geometry.origin, (x * 0.0005, y * 0.0005, 0.0))

    def test_classes_are_those_of_the_slide_or_of_the_patient(self, folder: Path):
        by_slide = {case.name[:18]: case.target for case in find_cases(folder, self.classified)}
        staged = data_config(
            format="camelyon17", targets=classes("pN0", "pN1"), options={**TILES, "label": "patient"}
        )
        by_patient = {case.name[:18]: case.target for case in find_cases(folder, staged)}

        slides = [f"patient_{name}" for name in ("004_node_0", "004_node_1", "004_node_4", "021_node_0")]
        assert [by_slide[name] for name in slides] == [0, 3, 2, 0]
        assert [by_patient[name] for name in slides] == [1, 1, 1, 0]

    def test_with_both_tasks_what_nobody_outlined_has_a_class_alone(self, folder: Path):
        both = data_config(format="camelyon17", structures=[METASTASIS], targets=self.classified.targets)

        cases = {case.name[:18]: case for case in find_cases(folder, both)}

        assert cases["patient_004_node_1"].labels is None
        assert cases["patient_004_node_4"].labels is not None
        assert read_case(cases["patient_004_node_1"], both).labels is None

    def test_folds_leave_out_a_patient_or_a_centre(self, folder: Path):
        centres = self.segmented.model_copy(update={"options": {**TILES, "group": "centre"}})

        assert {case.group for case in find_cases(folder, centres)} == {"centre_0", "centre_1"}

    def test_the_mirrors_flat_folders_and_the_older_tables_name_are_read(self, folder: Path, tmp_path: Path):
        mirror = tmp_path / "mirror"
        (mirror / "annotations").mkdir(parents=True)
        (mirror / "images").mkdir()
        for slide in (folder / "training").rglob("*.tif"):
            slide.rename(mirror / "images" / slide.name)
        outline = folder / "training" / "lesion_annotations" / "patient_004_node_4.xml"
        outline.rename(mirror / "annotations" / outline.name)
        (folder / "training" / "stages.csv").rename(mirror / "stage_labels.csv")

        assert len(find_cases(mirror, self.segmented)) == 3 * 12

    def test_a_bad_layout_is_told_in_a_sentence(self, folder: Path):
        with pytest.raises(InputError, match="expected a model of 3 modalities"):
            find_cases(folder, data_config(format="camelyon17", modalities=COLOURS[:1]))
        with pytest.raises(InputError, match=r"node_1.tif is of the class 'macro', expected one of"):
            find_cases(folder, data_config(format="camelyon17", targets=classes("negative", "micro")))
        training = folder / "training"
        outline = training / "lesion_annotations" / "patient_004_node_4.xml"
        outline.write_text(asap(("metastases", [(0, 0), (4, 4)])))
        with pytest.raises(InputError, match=r"patient_004_node_4.xml.* has 2 points"):
            find_cases(folder, self.segmented)
        outline.unlink()
        with pytest.raises(InputError, match=r"holds no annotation .*lesion_annotations.zip"):
            find_cases(folder, self.segmented)
        (training / "stages.csv").write_text("patient,stage\npatient_004.zip,pN1\n")
        with pytest.raises(InputError, match=r"stages.csv does not say the stage of patient_004_node_\d.tif"):
            find_cases(folder, self.segmented)
        (training / "stages.csv").write_text("slide,label\n")
        with pytest.raises(InputError, match="expected the columns patient and stage"):
            find_cases(folder, self.segmented)
        (training / "stages.csv").unlink()
        with pytest.raises(InputError, match=r"holds no table stages.csv"):
            find_cases(folder, self.segmented)
        with pytest.raises(InputError, match=r"holds no slide patient_NNN_node_N.tif"):
            find_cases(training / "lesion_annotations", self.segmented)


class TestTcga:
    #: File ID, file name without its UUID, project, patient.
    files = (
        ("0a1b", "TCGA-A7-A13E-01Z-00-DX1", "TCGA-BRCA", "TCGA-A7-A13E"),
        ("1c2d", "TCGA-A7-A13E-01Z-00-DX2", "TCGA-BRCA", "TCGA-A7-A13E"),
        ("2e3f", "TCGA-86-8076-01Z-00-DX1", "TCGA-LUAD", "TCGA-86-8076"),
        ("4a5b", "TCGA-86-8076-01A-01-TS1", "TCGA-LUAD", "TCGA-86-8076"),
    )
    config = data_config(format="tcga", targets=classes("TCGA-BRCA", "TCGA-LUAD"))

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        columns = "File ID,File Name,Data Category,Data Type,Project ID,Case ID,Sample ID,Sample Type"
        rows = [columns.replace(",", "\t")]
        for file, barcode, project, patient in self.files:
            name = f"{barcode}.6F9619FF-8B86-D011-B42D-00C04FC964FF.svs"
            write_slide(tmp_path / file / name)
            (tmp_path / file / "logs").mkdir()
            sample = barcode[:16]
            row = (file, name, "Biospecimen", "Slide Image", project, patient, sample, "Primary Tumor")
            rows.append("\t".join(row))
        (tmp_path / "gdc_sample_sheet.2024-07-18.tsv").write_text("\n".join(rows) + "\n")
        (tmp_path / "MANIFEST.txt").write_text("id\tfilename\tmd5\tsize\tstate\n")
        return tmp_path

    def test_tiles_of_diagnostic_slides_have_the_class_of_their_project(self, folder: Path):
        cases = find_cases(folder, self.config)

        targets = {(case.group, case.name[:23]): case.target for case in cases}
        assert targets == {
            ("TCGA-A7-A13E", "TCGA-A7-A13E-01Z-00-DX1"): 0,
            ("TCGA-A7-A13E", "TCGA-A7-A13E-01Z-00-DX2"): 0,
            ("TCGA-86-8076", "TCGA-86-8076-01Z-00-DX1"): 1,
        }
        assert len(cases) == 3 * 12
        prepared = load_case(cases[0], training_config(self.config))
        assert prepared.image.shape == (3, 1, 32, 32)
        assert prepared.labels is None
        assert prepared.target == cases[0].target

    def test_frozen_sections_and_other_columns_can_be_asked_for(self, folder: Path):
        frozen = data_config(
            format="tcga",
            targets=classes("Primary Tumor", "Solid Tissue Normal"),
            options={**TILES, "kinds": ["TS"], "column": "Sample Type", "per_slide": 2},
        )

        cases = find_cases(folder, frozen)

        assert [case.name[:23] for case in cases] == ["TCGA-86-8076-01A-01-TS1"] * 2
        assert {case.target for case in cases} == {0}

    def test_a_bad_layout_is_told_in_a_sentence(self, folder: Path):
        with pytest.raises(InputError, match=r"DX1.*is of the class 'TCGA-LUAD', expected one of TCGA-BRCA"):
            find_cases(folder, data_config(format="tcga", targets=classes("TCGA-BRCA", "TCGA-KIRC")))
        with pytest.raises(InputError, match="has no column Tissue"):
            find_cases(folder, self.config.model_copy(update={"options": {**TILES, "column": "Tissue"}}))
        with pytest.raises(InputError, match=r"holds no slide FILE-ID/\*.svs of the kind BS"):
            find_cases(folder, self.config.model_copy(update={"options": {**TILES, "kinds": ("BS",)}}))
        (folder / "0a1b").rename(folder / "9z9z")
        with pytest.raises(InputError, match="has no row of the file 9z9z/TCGA-A7-A13E-01Z-00-DX1"):
            find_cases(folder, self.config)
        (folder / "9z9z").rename(folder / "0a1b")
        next((folder / "0a1b").glob("*.svs")).write_bytes(b"interrupted")
        with pytest.raises(InputError, match="cannot be opened"):
            find_cases(folder, self.config)
        (folder / "gdc_sample_sheet.2024-07-18.tsv").unlink()
        with pytest.raises(InputError, match="holds 0 sample sheets"):
            find_cases(folder, self.config)


class TestRadPath20:
    #: The table's rows: name, class, age in days.
    patients = (("CPM19_CBICA_AAB_1", "G", 21000), ("CPM19_TCIA02_179_1", "O", 15000))
    radiology = data_config(
        format="radpath20",
        modalities=[
            {"name": "T1"},
            {"name": "T1c", "aliases": ["t1ce"]},
            {"name": "T2"},
            {"name": "FLAIR"},
        ],
        targets=classes("A", "O", "G"),
        options={},
    )
    pathology = data_config(
        format="radpath20", targets=classes("A", "O", "G"), options={**TILES, "images": "pathology"}
    )

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        root = tmp_path / "CPM-RadPath_2020_Training_Data"
        grid = Geometry((6, 5, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
        for number, (name, _class, _age) in enumerate(self.patients):
            (root / "Radiology" / name).mkdir(parents=True)
            for place, ending in enumerate(("flair", "t1", "t1ce", "t2")):
                values = np.random.default_rng(10 * number + place).random((4, 5, 6), np.float32)
                write_volume(Volume(values, grid), root / "Radiology" / name / f"{name}_{ending}.nii.gz")
            within = Path(name) if number else Path()
            write_slide(root / "Pathology" / within / f"{name}.tiff")
        rows = "".join(f"{name},{called},{age}\n" for name, called, age in self.patients)
        header = "CPM_RadPath_2019_ID,class,age_in_days\n"
        (root / "training_data_classification_labels.csv").write_text(header + rows)
        return tmp_path

    def test_volumes_and_slides_of_a_patient_are_a_pair_by_group_and_class(self, folder: Path):
        volumes = find_cases(folder, self.radiology)
        tiles = find_cases(folder, self.pathology)

        expected = {("CPM19_CBICA_AAB_1", 2), ("CPM19_TCIA02_179_1", 1)}
        assert {(case.group, case.target) for case in volumes} == expected
        assert {(case.group, case.target) for case in tiles} == expected
        endings = [str(path).rpartition("_")[2] for path in volumes[0].images]
        assert endings == ["t1.nii.gz", "t1ce.nii.gz", "t2.nii.gz", "flair.nii.gz"]
        assert load_case(volumes[0], training_config(self.radiology)).image.shape == (4, 4, 5, 6)
        assert load_case(tiles[0], training_config(self.pathology)).image.shape == (3, 1, 32, 32)

    def test_a_bad_layout_is_told_in_a_sentence(self, folder: Path):
        root = folder / "CPM-RadPath_2020_Training_Data"
        with pytest.raises(InputError, match="CPM19_CBICA_AAB_1 is of the class 'G', expected one of A"):
            find_cases(folder, self.radiology.model_copy(update={"targets": self.radiology.targets[:2]}))
        with pytest.raises(InputError, match="expected a model of 3 modalities"):
            find_cases(folder, self.radiology.model_copy(update={"options": {"images": "pathology"}}))
        (root / "Radiology" / "CPM19_CBICA_AAB_1" / "CPM19_CBICA_AAB_1_t2.nii.gz").unlink()
        with pytest.raises(InputError, match="CPM19_CBICA_AAB_1 has no T2 image, only flair, t1, t1ce"):
            find_cases(folder, self.radiology)
        (root / "Pathology" / "CPM19_CBICA_AAB_1.tiff").unlink()
        with pytest.raises(InputError, match=r"holds no slide CPM19_CBICA_AAB_1.tiff"):
            find_cases(folder, self.pathology)
        table = root / "training_data_classification_labels.csv"
        table.write_text("ID,diagnosis\n")
        with pytest.raises(InputError, match="expected a column class"):
            find_cases(folder, self.radiology)
        table.unlink()
        with pytest.raises(InputError, match=r"holds no table training_data_classification_labels.csv"):
            find_cases(folder, self.radiology)


def test_tiles_of_a_patient_stay_in_one_fold(tmp_path: Path):
    rows = ["File ID\tFile Name\tProject ID\tCase ID"]
    for number, file in enumerate("abc"):
        barcode = f"TCGA-AA-000{number}-01Z-00-DX1"
        write_slide(tmp_path / file / f"{barcode}.svs")
        rows.append(f"{file}\t{barcode}.svs\tTCGA-BRCA\t{barcode[:12]}")
    (tmp_path / "gdc_sample_sheet.tsv").write_text("\n".join(rows))
    three = TestTcga.config.model_copy(update={"folds": 3})

    split = split_cases(find_cases(tmp_path, three), three, 0)

    patients = [{name[:12] for name in part} for part in (split.train, split.inner, split.held_out)]
    assert [len(part) for part in patients] == [1, 1, 1]
    assert len(set().union(*patients)) == 3
