# SPDX-License-Identifier: Apache-2.0
"""docs/training.md: its example of a new data set is used as it stands there, and its table is complete."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import training.datasets
from DIANetLib.errors import ConfigError, InputError
from DIANetLib.formats.image import write_volume
from DIANetLib.volume import Geometry, Volume
from Testing.training.tiny import settings
from training.config import TrainingConfig, load_config, parse_config
from training.datasets import find_cases, known_formats, load_case, split_cases
from training.distributed import Context
from training.loop import fit

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
#: exam, patient, finding, whether it has a FLAIR image, whether a lesion was outlined.
EXAMS = (
    ("exam-001", "p1", "none", True, False),
    ("exam-002", "p1", "lesion", False, True),
    ("exam-003", "p2", "many lesions", True, True),
    ("exam-004", "p3", "none", True, True),
    ("exam-005", "p4", "lesion", True, False),
)


def block(language: str) -> str:
    """The page's only block of code in that language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == 1
    return str(found[0])


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainingConfig]:
    """The example's file lies where it says, and its lines are in a configuration that fits in seconds."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "clinic.py").write_text(block("python"), encoding="utf-8")
    monkeypatch.setattr(training.datasets, "__path__", [*training.datasets.__path__, str(tmp_path / "code")])
    yield parse_config(
        settings(
            data=yaml.safe_load(block("yaml"))["data"],
            network__modalities=2,
            network__classes=2,
            network__classification={"classes": 2},
            patch=[8, 8, 8],
            optimiser__steps=2,
        ),
        "page",
    )
    sys.modules.pop("training.datasets.clinic", None)


@pytest.fixture
def exams(tmp_path: Path) -> Path:
    """Files of the layout that the page describes."""
    folder = tmp_path / "data"
    grid = Geometry((10, 9, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    rows = ["exam,patient,finding"]
    for number, (exam, patient, finding, has_flair, is_outlined) in enumerate(EXAMS):
        (folder / exam).mkdir(parents=True)
        rng = np.random.default_rng(number)
        for name in ("t1", "flair") if has_flair else ("t1",):
            values = rng.random(grid.shape, np.float32)
            write_volume(Volume(values, grid), folder / exam / f"{name}.nii.gz")
        if is_outlined:
            labels = np.zeros(grid.shape, np.uint8)
            labels[2:5, 3:6, 4:8] = finding != "none"
            write_volume(Volume(labels, grid), folder / exam / "lesion.nii.gz")
        rows.append(f"{exam},{patient},{finding}")
    (folder / "exams.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_the_example_finds_what_it_says(clinic: TrainingConfig, exams: Path):
    cases = find_cases(exams, clinic.data)

    assert [(case.name, case.group, case.target) for case in cases] == [
        ("exam-001", "p1", 0),
        ("exam-002", "p1", 1),
        ("exam-003", "p2", 1),
        ("exam-004", "p3", 0),
        ("exam-005", "p4", 1),
    ]
    prepared = [load_case(case, clinic) for case in cases]
    assert [case.available for case in prepared] == [
        (True, has_flair) for _exam, _patient, _finding, has_flair, _is_outlined in EXAMS
    ]
    assert [case.labels is not None for case in prepared] == [row[-1] for row in EXAMS]
    assert prepared[2].labels is not None
    assert prepared[2].labels.sum() == 3 * 3 * 4
    sides = [set(part) for part in vars(split_cases(cases, clinic.data, 0)).values()]
    assert sum({"exam-001", "exam-002"} <= side for side in sides) == 1


def test_the_example_is_fitted(clinic: TrainingConfig, exams: Path, tmp_path: Path):
    cases = {case.name: case for case in find_cases(exams, clinic.data)}
    split = split_cases(list(cases.values()), clinic.data, 0)
    train, inner = ([load_case(cases[n], clinic) for n in part] for part in (split.train, split.inner))

    result = fit(clinic, train, inner, tmp_path / "run", Context(0, 1, torch.device("cpu")))

    assert result.step == 2


def test_the_example_says_what_is_wrong_with_a_folder(clinic: TrainingConfig, exams: Path):
    (exams / "exam-004" / "t1.nii.gz").unlink()
    with pytest.raises(InputError, match="case exam-004 has no T1 image, only flair, lesion"):
        find_cases(exams, clinic.data)
    table = exams / "exams.csv"
    table.write_text(table.read_text().replace("many lesions", "stroke"))
    with pytest.raises(InputError, match="exam-003 is of the class 'stroke', expected one of none, lesion"):
        find_cases(exams, clinic.data)
    table.unlink()
    with pytest.raises(InputError, match=r"holds no table exams.csv"):
        find_cases(exams, clinic.data)


def test_without_its_file_the_line_is_refused():
    with pytest.raises(ConfigError, match=r"data\.format: expected one of bart, .*'clinic'"):
        parse_config(settings(data=yaml.safe_load(block("yaml"))["data"]), "page")


def test_the_table_of_formats_is_complete_and_names_the_configurations_that_use_them():
    rows = re.findall(r"^\| `([a-z0-9-]+)`.*\| (.+) \|$", PAGE.partition("**Folds.**")[0], re.MULTILINE)
    listed = {name: set(re.findall(r"`([a-z0-9-]+)`", last)) for name, last in rows}
    used: dict[str, set[str]] = {name: set() for name in known_formats()}
    for file in (ROOT / "training" / "configs").glob("*.yaml"):
        used[load_config(file).data.format].add(file.stem)

    assert set(listed) == set(used)
    for name, configurations in listed.items():
        assert configurations <= used[name]
