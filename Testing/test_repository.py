# SPDX-License-Identifier: Apache-2.0
"""The repository's own files agree with each other."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def cmake_sources():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git clone")
    spec = importlib.util.spec_from_file_location(
        "list_cmake_sources", ROOT / "Utilities/list_cmake_sources.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cmake_lists_every_file_of_the_library_the_models_and_the_module(cmake_sources):
    for file, expected in cmake_sources.expected_lists().items():
        written = cmake_sources.written_lists(file.read_text(encoding="utf-8"))

        assert written == expected, f"{file}: run: python Utilities/list_cmake_sources.py"


def test_every_file_that_cmake_lists_exists(cmake_sources):
    for file in cmake_sources.expected_lists():
        written = cmake_sources.written_lists(file.read_text(encoding="utf-8"))
        folder = ROOT if file == cmake_sources.LIBRARY else file.parent

        assert [path for paths in written.values() for path in paths if not (folder / path).is_file()] == []


def test_every_folder_with_a_cmake_file_is_built():
    for file in ROOT.glob("DIANetSegmenter/**/CMakeLists.txt"):
        above = file.parent.parent / "CMakeLists.txt"

        assert f"add_subdirectory({file.parent.name})" in above.read_text(encoding="utf-8")


def test_every_requirement_has_a_pinned_version():
    # Read as text: tomllib is younger than Python 3.10.
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.scripts]")[0]
    names = re.findall(
        r'"([A-Za-z][A-Za-z0-9_-]*)(?:\[[a-z]+\])?>=', project.partition("dependencies = [")[2]
    )
    pinned = {
        line.partition("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    }

    assert len(names) > 10
    assert {name.lower() for name in names} - pinned == set()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", ["demo", "view", "test", "lint", "format", "clean", "distclean", "help"])
def test_the_makefile_has_the_target_and_help_names_it(target):
    shown = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)

    assert shown.returncode == 0, shown.stderr
    assert f"make {target} " in listed.stdout


def test_the_pre_commit_hooks_run_what_make_lint_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    for hook in hooks:
        command = hook["entry"].split()[0].rpartition("/")[2]
        assert f"$(BIN)/{command}" in makefile


class TestSettingUpTheEnvironment:
    """`Utilities/make_environment.sh`, with stand-ins for the programs that would install something."""

    @pytest.fixture
    def sandbox(self, tmp_path):
        if os.name != "posix":
            pytest.skip("needs a POSIX shell")
        clone = tmp_path / "clone"
        (clone / "Utilities").mkdir(parents=True)
        for name in ("pyproject.toml", "constraints.txt", "Utilities/make_environment.sh"):
            shutil.copy(ROOT / name, clone / name)
        tools = tmp_path / "tools"
        tools.mkdir()
        for name in (
            "sh",
            "cat",
            "cksum",
            "dirname",
            "sed",
            "tr",
            "sort",
            "paste",
            "rm",
            "df",
            "awk",
            "mkdir",
        ):
            (tools / name).symlink_to(shutil.which(name))
        write_program(tools / "id", "echo 1000")  # not root
        return clone

    def run(self, clone, *arguments, **variables):
        return subprocess.run(
            ["sh", "Utilities/make_environment.sh", *(arguments or (".venv", "demo"))],
            cwd=clone,
            env={"PATH": str(clone.parent / "tools"), **variables},
            capture_output=True,
            text=True,
        )

    def fake_python(self, clone, name="python3", *, ensurepip=True, version_ok=True, install_ok=True):
        """A Python whose environments and packages are empty files; every installation is logged."""
        log = clone.parent / "installs.log"
        write_program(
            clone.parent / "tools" / name,
            f"""
case "$*" in
    *sys.version_info\\[:2\\]\\ \\<=*) exit {0 if version_ok else 1} ;;
    *ensurepip*) test -e {clone.parent / "apt-installed"} || exit {0 if ensurepip else 1} ;;
    *"import pip, sys"*) exit 1 ;;
    *python%d.%d-venv*) echo python3.11-venv ;;
    "-m venv "*) mkdir -p "$3/bin"; cat "$0" >"$3/bin/python"; chmod +x "$3/bin/python" ;;
    "-m pip --version") exit 0 ;;
    "-m pip install "*) echo "$*" >>{log}; exit {0 if install_ok else 1} ;;
    -V*) echo "Python 3.11.7" ;;
esac
""",
        )
        (clone.parent / "tools" / "chmod").unlink(missing_ok=True)
        (clone.parent / "tools" / "chmod").symlink_to(shutil.which("chmod"))
        return log

    def test_a_second_run_installs_nothing(self, sandbox):
        log = self.fake_python(sandbox)

        first, second = self.run(sandbox), self.run(sandbox)

        assert first.returncode == second.returncode == 0, first.stderr + second.stderr
        assert log.read_text().count("install") == 1
        assert "--constraint constraints.txt --editable .[demo]" in log.read_text()

    def test_changed_pins_install_again(self, sandbox):
        log = self.fake_python(sandbox)
        self.run(sandbox)
        with (sandbox / "constraints.txt").open("a") as pins:
            pins.write("another==1\n")

        self.run(sandbox)

        assert log.read_text().count("install") == 2

    def test_further_extras_are_added_to_those_already_there(self, sandbox):
        log = self.fake_python(sandbox)
        self.run(sandbox)
        self.run(sandbox, ".venv", "dev,train")
        self.run(sandbox, ".venv", "demo")  # still there: nothing to do

        assert [line.rpartition(" ")[2] for line in log.read_text().splitlines()] == [
            ".[demo]",
            ".[demo,dev,train]",
        ]

    def test_an_interrupted_installation_is_taken_up_again(self, sandbox):
        self.fake_python(sandbox, install_ok=False)
        failed = self.run(sandbox)
        (sandbox / ".venv/bin/python").unlink()
        log = self.fake_python(sandbox)

        again = self.run(sandbox)

        assert failed.returncode != 0
        assert "Run make again to go on" in failed.stderr
        assert again.returncode == 0
        assert log.read_text().count("install") == 2

    def test_without_any_python_the_sentence_names_the_command(self, sandbox):
        done = self.run(sandbox)

        assert done.returncode == 1
        assert "no Python 3.10 to 3.13 was found" in done.stderr
        assert "sudo apt-get install python3 python3-venv" in done.stderr

    def test_a_python_out_of_range_is_passed_over(self, sandbox):
        self.fake_python(sandbox, version_ok=False)
        self.fake_python(sandbox, "python3.12")

        assert self.run(sandbox).returncode == 0

    def test_a_python_that_cannot_make_environments_gets_one_sentence(self, sandbox):
        self.fake_python(sandbox, ensurepip=False)

        done = self.run(sandbox)

        assert done.returncode == 1
        assert "sudo apt-get install python3.11-venv" in done.stderr
        assert not (sandbox / ".venv").exists()

    @pytest.mark.parametrize("through", ["root", "sudo without a password"])
    def test_the_missing_debian_package_is_installed_where_that_needs_no_password(self, sandbox, through):
        self.fake_python(sandbox, ensurepip=False)
        tools = sandbox.parent / "tools"
        (tools / "env").symlink_to(shutil.which("env"))
        (tools / "touch").symlink_to(shutil.which("touch"))
        installed = sandbox.parent / "apt-installed"
        write_program(tools / "apt-get", f'case "$*" in *install*python3.11-venv) touch {installed} ;; esac')
        if through == "root":
            write_program(tools / "id", "echo 0")
        else:
            write_program(tools / "sudo", 'shift; "$@"')
            (tools / "true").symlink_to(shutil.which("true"))

        done = self.run(sandbox)

        assert done.returncode == 0, done.stderr
        assert installed.exists()
        assert "installing the system package(s) python3.11-venv" in done.stderr

    def test_a_sudo_that_asks_for_a_password_is_not_used(self, sandbox):
        self.fake_python(sandbox, ensurepip=False)
        tools = sandbox.parent / "tools"
        write_program(tools / "apt-get", "exit 1")
        write_program(tools / "sudo", "exit 1")

        done = self.run(sandbox)

        assert done.returncode == 1
        assert "sudo apt-get install python3.11-venv" in done.stderr

    def test_a_folder_that_is_no_environment_is_left_alone(self, sandbox):
        self.fake_python(sandbox)
        (sandbox / ".venv" / "lib").mkdir(parents=True)

        done = self.run(sandbox)

        assert done.returncode == 1
        assert "is no virtual environment" in done.stderr
        assert (sandbox / ".venv" / "lib").exists()


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
