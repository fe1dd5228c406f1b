# SPDX-License-Identifier: Apache-2.0
"""Writes the lists of files in the CMakeLists.txt of library and module anew from the files that git tracks.

Slicer's build copies and installs exactly the files that CMake lists. `Testing/test_repository.py` fails
while the lists differ from the tree; this script puts them right: `python Utilities/list_cmake_sources.py`.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "DIANetLib" / "CMakeLists.txt"
MODULE = ROOT / "DIANetSegmenter" / "CMakeLists.txt"
MODULE_TESTS = ROOT / "DIANetSegmenter" / "Testing" / "Python" / "CMakeLists.txt"


def tracked_files(*patterns: str, below: Path = ROOT) -> list[str]:
    """Paths of the files that git tracks, relative to `below`, sorted."""
    command = ["git", "ls-files", "-z", "--", *patterns]
    output = subprocess.run(command, cwd=below, check=True, capture_output=True, text=True).stdout
    return sorted(path for path in output.split("\0") if path)


def expected_lists() -> dict[Path, dict[str, list[str]]]:
    """What each list of each CMake file has to hold; paths as CMake takes them there."""
    library = tracked_files("DIANetLib")
    module = [path for path in tracked_files(below=MODULE.parent) if not path.startswith("Testing/")]
    tests = tracked_files(below=MODULE_TESTS.parent)
    return {
        LIBRARY: {
            "LIBRARY_SCRIPTS": [path for path in library if path.endswith(".py")],
            "LIBRARY_RESOURCES": [path for path in library if not path.endswith((".py", "CMakeLists.txt"))]
            + tracked_files("Resources/Models"),
        },
        MODULE: {
            "MODULE_PYTHON_SCRIPTS": [path for path in module if path.endswith(".py")],
            "MODULE_PYTHON_RESOURCES": [path for path in module if path.startswith("Resources/")],
        },
        MODULE_TESTS: {"MODULE_TESTS": [path for path in tests if path.endswith("Test.py")]},
    }


def written_lists(text: str) -> dict[str, list[str]]:
    """The `set(NAME ...)` lists that the text of a CMake file holds."""
    return {name: body.split() for name, body in re.findall(r"^set\((\w+)\n([^)]*)\)", text, re.MULTILINE)}


def main() -> None:
    """Replaces the lists in the CMake files."""
    for file, lists in expected_lists().items():
        text = file.read_text(encoding="utf-8")
        for name, paths in lists.items():
            lines = "".join(f"  {path}\n" for path in paths)
            text = re.sub(rf"^set\({name}\n[^)]*\)", f"set({name}\n{lines})", text, flags=re.MULTILINE)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
