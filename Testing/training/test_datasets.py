# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import monai.apps
import numpy as np
import pytest

from DIANetLib.errors import InputError
from DIANetLib.formats.image import write_volume
from DIANetLib.volume import Geometry, Volume
from Testing.training.tiny import config, make_case, write_cases
from training.config import DataConfig
from training.data_folder import data_folder
from training.datasets import find_cases, load_case, map_labels, split_cases

NAMES = [f"case_{number:02d}" for number in range(13)]
# sklearn.model_selection.KFold(5, shuffle=True, random_state=12345).split(range(13)), test indices
SKLEARN_FOLDS = ([0, 7, 9], [3, 6, 10], [8, 11, 12], [1, 4], [2, 5])


def data_config(**changes: Any) -> DataConfig:
    fields = config().data.model_dump()
    return DataConfig(**{**fields, "folds": 5, "inner": 3, **changes})


@pytest.mark.parametrize("layout", [("imagesTr", "labelsTr"), ("images", "labels")])
def test_both_layouts_are_read_and_hidden_files_are_passed_over(tmp_path: Path, layout: tuple[str, str]):
    write_cases(tmp_path / "set", 2, layout=layout)
    (tmp_path / "set" / layout[1] / "._case_00.nii.gz").write_bytes(b"a Mac's leavings")

    found = find_cases(tmp_path / "set")

    assert [case.name for case in found] == ["case_00", "case_01"]
    assert found[1].images == (tmp_path / "set" / layout[0] / "case_01.nii.gz",)
    assert found[1].labels == tmp_path / "set" / layout[1] / "case_01.nii.gz"


def test_what_is_no_data_set_is_told_in_a_sentence(tmp_path: Path):
    with pytest.raises(InputError, match="holds no data set: expected imagesTr/ and labelsTr/"):
        find_cases(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match="holds no label file"):
        find_cases(tmp_path)
    (tmp_path / "labels" / "a.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"label .*a.nii.gz has no image"):
        find_cases(tmp_path)
    with pytest.raises(InputError, match=r"one modality per case, got a model of 2. Name the data set"):
        find_cases(tmp_path, data_config(modalities=({"name": "T1"}, {"name": "T2"})))


def test_a_case_is_turned_like_an_image_at_inference_and_its_labels_with_it(data: Path):
    case = load_case(find_cases(data)[0], config())
    image, labels = make_case(0)

    # The file's axes are (L, A, S); canonical is (R, A, S): only i is reversed.
    expected = np.where(labels.array == 5, 1, np.where(labels.array > 0, 2, 0))
    np.testing.assert_array_equal(case.labels, expected[:, :, ::-1])
    np.testing.assert_array_equal(case.source_labels.array, expected)
    turned = image.array[:, :, ::-1]
    assert np.corrcoef(case.image[0].ravel(), turned.ravel())[0, 1] > 0.99
    assert abs(float(case.image.mean())) < 1e-5


def test_label_values_map_to_classes_and_others_become_background():
    values = np.array([0.0, 5.0, 7.0, 8.0, 3.0])

    assert map_labels(values, config().data).tolist() == [0, 1, 2, 2, 0]


def test_labels_on_another_grid_than_the_image_are_refused(tmp_path: Path):
    write_cases(tmp_path / "set", 1)
    moved = Geometry((14, 16, 12), (1.0, 1.0, 1.0), (50.0, 0.0, 0.0), np.eye(3))
    labels = Volume(make_case(0)[1].array, moved)
    write_volume(labels, tmp_path / "set" / "labels" / "case_00.nii.gz")

    with pytest.raises(InputError, match="lie on another grid than image"):
        load_case(find_cases(tmp_path / "set")[0], config())


def test_a_case_without_any_structure_is_read(tmp_path: Path):
    write_cases(tmp_path / "set", 1)
    labels = make_case(0)[1]
    nothing = labels.with_array(np.zeros_like(labels.array))
    write_volume(nothing, tmp_path / "set" / "labels" / "case_00.nii.gz")

    assert not load_case(find_cases(tmp_path / "set")[0], config()).labels.any()


@pytest.mark.parametrize("fold", range(5))
def test_held_out_folds_are_those_of_scikit_learn(fold: int):
    split = split_cases(NAMES, data_config(), fold)

    assert list(split.held_out) == [NAMES[index] for index in SKLEARN_FOLDS[fold]]


def test_every_case_is_held_out_once_and_a_split_is_a_partition():
    splits = [split_cases(NAMES, data_config(), fold) for fold in range(5)]

    assert sorted(name for split in splits for name in split.held_out) == NAMES
    for split in splits:
        assert sorted(split.train + split.inner + split.held_out) == NAMES
        assert len(split.inner) == 3


def test_a_split_depends_on_names_and_seed_alone():
    assert split_cases(NAMES[::-1], data_config(), 1) == split_cases(NAMES, data_config(), 1)
    assert split_cases(NAMES, data_config(split_seed=1), 1) != split_cases(NAMES, data_config(), 1)


def test_too_few_cases_and_unknown_folds_are_refused():
    with pytest.raises(InputError, match="at least 5 cases for 5 folds and 3 inner cases, got 4"):
        split_cases(NAMES[:4], data_config(), 0)
    with pytest.raises(InputError, match="at least 6 cases for 3 folds and 3 inner cases, got 5"):
        split_cases(NAMES[:5], data_config(folds=3), 0)
    with pytest.raises(InputError, match="expected a fold from 0 to 4, got 5"):
        split_cases(NAMES, data_config(), 5)


class TestDownloading:
    release = "Task04_Hippocampus"

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
        """Puts cases where MONAI would, and says what it was asked for."""
        calls = []

        def download(root: Path, task: str, section: str, *, download: bool, **_: Any) -> None:
            assert download
            assert root.is_dir()
            calls.append((task, section))
            write_cases(root / task, 1, layout=("imagesTr", "labelsTr"))

        monkeypatch.setattr(monai.apps, "DecathlonDataset", download)
        return calls

    def test_a_missing_or_empty_folder_gets_the_release_once(self, tmp_path: Path, asked: list[Any]):
        wanted = data_config(release=self.release)

        folder = data_folder(wanted, tmp_path / "new")
        again = data_folder(wanted, tmp_path / "new")

        assert folder == again == tmp_path / "new" / self.release
        assert asked == [(self.release, "training")]
        assert len(find_cases(folder)) == 1

    def test_a_folder_with_cases_or_with_other_things_is_left_alone(self, tmp_path: Path, asked: list[Any]):
        wanted = data_config(release=self.release)
        own = write_cases(tmp_path / "own", 1)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "thesis.txt").write_text("…")

        assert data_folder(wanted, own) == own
        assert data_folder(wanted, tmp_path / "other") == tmp_path / "other"
        assert data_folder(data_config(), tmp_path / "none") == tmp_path / "none"
        assert data_folder(wanted, tmp_path / "none", download=False) == tmp_path / "none"
        assert asked == []

    def test_without_internet_there_is_a_sentence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def fail(*_: Any, **__: Any) -> None:
            raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

        monkeypatch.setattr(monai.apps, "DecathlonDataset", fail)

        with pytest.raises(
            InputError, match=r"could not be downloaded .*name resolution.*Check the internet"
        ):
            data_folder(data_config(release=self.release), tmp_path / "new")
