# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from DIANetLib import doctor
from DIANetLib.cli import main
from DIANetLib.doctor import Check, examine, report
from Testing.bundle.tiny import localiser, write_bundle


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only one with models."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setattr("DIANetLib.bundle.search_paths", lambda: (folder,))
    return folder


def named(name: str, checks: tuple[Check, ...]) -> list[Check]:
    return [check for check in checks if check.name == name]


def test_a_sound_installation_has_no_problems(only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(only)
    checks = examine(only)
    assert [check for check in checks if check.problem] == []
    assert main(["doctor", "--output", str(only / "new/folder")]) == 0
    text = capsys.readouterr().out
    assert text.endswith("No problems.\n")
    for word in ("Python", "torch", "memory", "numpy", "SimpleITK", "monai", "model tiny", "disk for output"):
        assert word in text


def test_models_are_verified_and_problems_come_with_a_remedy(
    only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write_bundle(only) / "models/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    write_bundle(only, "user", localiser=localiser("tiny"))
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "problem  model tiny: " in text
    assert "is not the file that the model was published with" in text
    assert "-> Replace or remove" in text
    assert "it needs the model 'tiny', which is not usable here" in text
    assert text.endswith("2 problems.\n")


def test_having_no_model_is_a_problem(only: Path) -> None:
    (check,) = named("models", examine(only))
    assert check.problem
    assert "none in" in check.text


def test_a_gpu_that_torch_cannot_use_is_a_problem(monkeypatch: pytest.MonkeyPatch, only: Path) -> None:
    monkeypatch.setattr(doctor, "_nvidia_gpus", lambda: ["NVIDIA H100"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    (check,) = named("GPU", examine(only))
    assert "NVIDIA H100 is here, but torch" in check.text
    assert "Install a CUDA build" in str(check.remedy)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    (check,) = named("GPU", examine(only))
    assert "Update the NVIDIA driver" in str(check.remedy)
    monkeypatch.setattr(doctor, "_nvidia_gpus", list)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (check,) = named("GPU", examine(only))
    assert not check.problem


def test_gpus_are_listed_with_their_free_memory(monkeypatch: pytest.MonkeyPatch, only: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    memory = [(70 * 10**9, 80 * 10**9), (10**9, 80 * 10**9)]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: memory[index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H100")
    checks = examine(only)
    assert named("GPU cuda:0", checks) == [Check("GPU cuda:0", "NVIDIA H100, 70.0 GB of 80.0 GB free")]
    assert "Close programs" in str(named("GPU cuda:1", checks)[0].remedy)


def test_torch_that_cannot_be_imported_is_a_problem(monkeypatch: pytest.MonkeyPatch, only: Path) -> None:
    monkeypatch.setattr(doctor, "_import_torch", lambda: "No module named 'torch'")
    (check,) = named("torch", examine(only))
    assert "No module named 'torch'" in check.text
    assert "Install PyTorch" in str(check.remedy)


def test_the_driver_is_asked_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert doctor._nvidia_gpus() == []
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="NVIDIA H100\n\n"))
    assert doctor._nvidia_gpus() == ["NVIDIA H100"]

    def fail(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(9, "nvidia-smi")

    monkeypatch.setattr(subprocess, "run", fail)
    assert doctor._nvidia_gpus() == []


def test_little_memory_and_a_full_disk_are_problems(monkeypatch: pytest.MonkeyPatch, only: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**12, 10**12, 10**8))
    monkeypatch.setattr(doctor, "_memory_bytes", lambda: (10**9, 8 * 10**9))
    checks = examine(only)
    assert "at least 4 GB" in str(named("memory", checks)[0].remedy)
    assert "at least 1 GB" in str(named("disk for output", checks)[0].remedy)
    monkeypatch.setattr(doctor, "_memory_bytes", lambda: (None, None))
    assert not named("memory", examine(only))[0].problem
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "is not writable" in named("disk for output", examine(only))[0].text


def test_memory_is_known_here() -> None:
    free, total = doctor._memory_bytes()
    assert free is not None
    assert total is not None
    assert 0 < free <= total


def test_missing_packages_and_extras_are_told(monkeypatch: pytest.MonkeyPatch, only: Path) -> None:
    monkeypatch.setattr(doctor, "_PACKAGES", ("numpy", "no-such-package"))
    monkeypatch.setattr(doctor, "_EXTRAS", {"train": ("no_such_module",)})
    checks = examine(only)
    assert named("packages", checks)[1].remedy == "pip install no-such-package"
    (extra,) = named("extra train", checks)
    assert 'without no_such_module (optional: pip install "dianet[train]")' in extra.text
    assert not extra.problem


def test_a_check_that_fails_is_itself_a_problem(monkeypatch: pytest.MonkeyPatch, only: Path) -> None:
    def fail() -> None:
        raise OSError("no /proc")

    monkeypatch.setattr(doctor, "_memory", fail)
    (check,) = named("memory", examine(only))
    assert check.text == "could not be checked (no /proc)"
    assert "1 problem" in report((check,))
