# SPDX-License-Identifier: Apache-2.0
"""The extension's CMake project, configured and installed with a stand-in for Slicer's build."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUB = Path(__file__).resolve().parent / "stub_slicer"
INSTALLED = Path("lib/Slicer-5.10/qt-scripted-modules")


# Nothing is compiled, so a compiler need not be there.
NO_COMPILER = [
    option
    for language in ("C", "CXX")
    for option in (
        f"-DCMAKE_{language}_COMPILER={sys.executable}",
        f"-DCMAKE_{language}_COMPILER_FORCED=ON",
        f"-DCMAKE_{language}_COMPILER_ID_RUN=1",
    )
]


def tracked(*patterns: str) -> list[str]:
    output = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [path for path in output.split("\0") if path]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Configures, installs and lists the tests; gives the folder and what CMake and CTest said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # pip installs CMake there
        return install(tmp_path_factory)


def install(tmp_path_factory):
    if shutil.which("cmake") is None or shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs CMake and a git clone")
    build, target = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("installed")
    command = ["cmake", "-S", str(ROOT), "-B", str(build), f"-DSlicer_DIR={STUB}", *NO_COMPILER]
    configured = subprocess.run(
        [*command, f"-DCMAKE_INSTALL_PREFIX={target}"], capture_output=True, text=True, timeout=120
    )
    assert configured.returncode == 0, configured.stdout + configured.stderr
    installed = subprocess.run(
        ["cmake", "--install", str(build)], capture_output=True, text=True, timeout=120
    )
    assert installed.returncode == 0, installed.stderr
    tests = subprocess.run(["ctest", "-N"], cwd=build, capture_output=True, text=True, timeout=60).stdout
    return target, configured.stdout, tests


def test_everything_arrives_where_slicer_looks_for_it(built):
    expected = {path for path in tracked("DIANetLib", "Resources/Models") if "CMakeLists.txt" not in path}
    module = [path.removeprefix("DIANetSegmenter/") for path in tracked("DIANetSegmenter")]
    expected |= {
        path for path in module if not path.startswith("Testing/") and not path.endswith("CMakeLists.txt")
    }
    folder = built[0] / INSTALLED
    arrived = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    assert arrived == expected
    assert {"DIANetSegmenter.py", "DIANetLib/__init__.py", "DIANetGui/Widget.py"} <= arrived
    assert "Resources/UI/DIANetSegmenter.ui" in arrived


def test_what_arrives_is_what_the_tree_holds(built):
    folder = built[0] / INSTALLED
    for path in tracked("DIANetSegmenter/*.py", "DIANetSegmenter/Resources"):
        if "/Testing/" not in path:
            relative = path.removeprefix("DIANetSegmenter/")
            assert (folder / relative).read_bytes() == (ROOT / path).read_bytes(), path


def test_library_and_gui_are_found_beside_the_module(built):
    code = "import DIANetLib, DIANetLib.catalogue as c; print(*sorted(m.name for m in c.read_catalogue()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=built[0] / INSTALLED, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert "hippocampus" in done.stdout.split()


def test_every_test_that_runs_inside_slicer_is_registered(built):
    files = [Path(path).stem for path in tracked("DIANetSegmenter/Testing/Python/*Test.py")]

    for name in ["DIANetSegmenter", *files]:
        assert f"py_{name}\n" in built[2], built[2]
    assert len(files) >= 2


def test_the_metadata_name_what_slicer_asks_for(built):
    said = dict(re.findall(r"EXTENSION_(\w+): (.*)", built[1]))

    assert said["CATEGORY"] == "Segmentation"
    assert said["DEPENDS"] == "PyTorch"
    assert "not a medical device" in said["DESCRIPTION"]


class TestPublicAddress:
    """`Utilities/set_public_address.py`, and what the index of extensions reads from the text."""

    ADDRESS = "https://github.com/somebody/SlicerDIANet"

    @pytest.fixture
    def script(self):
        path = ROOT / "Utilities" / "set_public_address.py"
        spec = importlib.util.spec_from_file_location("set_public_address", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    @pytest.fixture
    def clone(self, tmp_path):
        for path in ("CMakeLists.txt", "docs/extension/DIANet.json", "LICENSE"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tmp_path / path)
        for folder in ("Resources/Screenshots", "DIANetSegmenter/Resources/Icons"):
            shutil.copytree(ROOT / folder, tmp_path / folder)
        return tmp_path

    def url(self, clone, name):
        text = (clone / "CMakeLists.txt").read_text(encoding="utf-8")
        return re.findall(rf'^set\(EXTENSION_{name} "([^"]+)"\)$', text, re.MULTILINE)

    def test_without_an_address_nothing_is_claimed(self, clone):
        entry = json.loads((clone / "docs/extension/DIANet.json").read_text(encoding="utf-8"))

        assert entry["scm_url"] == ""
        assert self.url(clone, "ICONURL") == []

    def test_it_is_written_in_full_for_files_that_exist(self, clone, script):
        script.write(clone, self.ADDRESS, "main")
        raw = "https://raw.githubusercontent.com/somebody/SlicerDIANet/main/"
        (icon,), (screenshots,) = self.url(clone, "ICONURL"), self.url(clone, "SCREENSHOTURLS")

        assert self.url(clone, "HOMEPAGE") == [self.ADDRESS]
        for address in (icon, *screenshots.split(" ")):
            assert address.startswith(raw)
            assert (clone / address.removeprefix(raw)).is_file()

    def test_writing_it_again_changes_nothing(self, clone, script):
        script.write(clone, self.ADDRESS, "main")
        once = (clone / "CMakeLists.txt").read_text(encoding="utf-8")
        script.write(clone, self.ADDRESS + ".git", "main")

        assert (clone / "CMakeLists.txt").read_text(encoding="utf-8") == once

    def test_the_entry_of_the_index_gets_it_too(self, clone, script):
        script.write(clone, self.ADDRESS, "main")
        entry = json.loads((clone / "docs/extension/DIANet.json").read_text(encoding="utf-8"))

        assert entry["scm_url"] == f"{self.ADDRESS}.git"
        assert entry["category"] == "Segmentation"
        assert entry["build_dependencies"] == ["PyTorch"]
        assert entry["$schema"].startswith("https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/")

    @pytest.mark.parametrize("address", ["somewhere", "https://github.com/somebody/DIANet"])
    def test_an_address_that_the_index_would_refuse_is_refused(self, clone, script, address):
        with pytest.raises(ValueError, match="Slicer in the name"):
            script.write(clone, address, "main")
