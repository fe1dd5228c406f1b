# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from DIANetLib import __version__
from DIANetLib.cli import main
from DIANetLib.console import guarded, progress_display, table
from DIANetLib.errors import Cancelled, InputError
from DIANetLib.inference.prediction import Progress
from Testing.bundle.tiny import localiser, write_bundle

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "DIANetLib", *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )


def test_help_says_for_research_use_only(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["segment", "--help"]):
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
        text = " ".join(capsys.readouterr().out.split())
        assert "For research use only. Not a medical device." in text


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"dianet {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["segment"], "the following arguments are required: --model, --output"),
        (
            ["segment", "a.nii", "--model", "m", "--output", "o", "--samples", "many"],
            "invalid int value: 'many'",
        ),
        (["fly"], "invalid choice: 'fly'"),
        (["evaluate", "o"], "the following arguments are required: --reference"),
    ],
)
def test_wrong_arguments_get_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capsys.readouterr().err
    assert error.startswith("dianet: error: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_help_and_models_import_neither_torch_nor_monai(tmp_path: Path) -> None:
    code = (
        "import sys; from DIANetLib.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert main(['models']) == 0\n"
        "assert not {'torch', 'monai', 'SimpleITK', 'scipy', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_the_module_runs_as_the_command() -> None:
    done = command("segment", "x.nii", "--model", "nope", "--output", "o")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("dianet: error: There is no model 'nope'; known models: ")
    assert done.stderr.count("\n") == 1


def test_the_worker_prints_nothing_but_the_protocol(tmp_path: Path) -> None:
    done = command("worker", "--exchange", str(tmp_path))  # standard input is empty
    assert done.returncode == 0, done.stderr
    line, rest = done.stdout.split("\n")  # splitlines() would cut at the separator too
    assert rest == ""
    assert line.startswith('\x1e{"type":"hello"')
    assert done.stderr == ""
    done = command("worker", "--exchange", str(tmp_path / "nowhere"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dianet: error: The exchange folder")
    done = command("worker", "--help")
    assert "Not meant to be typed by people" in " ".join(done.stdout.split())


def test_models_are_listed_with_what_they_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIANET_MODELS", str(tmp_path))
    folder = write_bundle(tmp_path, localiser=localiser(), figures={"dice": {"mean": 0.8912}})
    broken = write_bundle(tmp_path, "broken")
    (broken / "configs/metadata.json").write_text("{")
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "tiny 1.0.0: Test\n  input: T1; 0.0 MB, mean Dice 0.891 on cases not trained on\n" in text
    assert "  structures: head, tail\n  finds where to look with: where\n" in text
    assert f"  Copyright (c) The DIANet contributors\n  {folder}\n" in text
    assert "broken: cannot be used. " in text


def test_models_says_where_it_looked_when_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("DIANetLib.bundle.search_paths", lambda: (tmp_path,))
    assert main(["models"]) == 0
    assert capsys.readouterr().out.startswith(f"No models in {tmp_path}; $DIANET_MODELS may name")


def raising(error: BaseException) -> int:
    raise error


def test_errors_become_one_sentence_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: 0) == 0
    assert guarded(lambda: raising(InputError("No such\nfile.", remedy="Look again."))) == 2
    assert capsys.readouterr().err == "dianet: error: No such file. Look again.\n"
    for error in (KeyboardInterrupt(), Cancelled()):
        assert guarded(lambda error=error: raising(error)) == 130  # type: ignore[misc]
        assert capsys.readouterr().err == "dianet: cancelled; nothing was written.\n"


def test_unexpected_errors_leave_their_traceback_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert guarded(lambda: raising(ValueError("odd"))) == 1
    error = capsys.readouterr().err
    (file,) = tmp_path.iterdir()
    assert "something unexpected happened (ValueError: odd)" in error
    assert str(file) in error
    assert error.count("\n") == 1
    assert "Traceback" in file.read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert guarded(lambda: raising(ValueError("odd"))) == 1
    assert "--debug" in capsys.readouterr().err
    with pytest.raises(ValueError, match="odd"):
        guarded(lambda: raising(ValueError("odd")), debug=True)


def test_progress_is_a_line_per_stage_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display() as report:
        for step in (Progress("read", 0, 1), Progress("read", 1, 1), Progress("write", 0, 1)):
            report(step)
    assert capsys.readouterr().err.splitlines() == [
        "reading ...",
        "reading done in 0.0 s",
        "writing ...",
        "writing done in 0.0 s",
    ]
    with progress_display(quiet=True) as report:
        report(Progress("read", 0, 1))
    assert capsys.readouterr().err == ""


def test_progress_is_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_display() as report:
        report(Progress("explain", 0, 4))
        report(Progress("explain", 4, 4))
    assert "explaining (Grad-CAM)" in capsys.readouterr().err


def test_tables_are_aligned() -> None:
    text = table(("structure", "ml"), [("a", "1.25"), ("a longer one", "12.50")])
    assert text == "structure        ml\na              1.25\na longer one  12.50"
