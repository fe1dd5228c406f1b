# SPDX-License-Identifier: Apache-2.0
"""Writes the lists of files in `DIANetLib/CMakeLists.txt` anew from the files that git tracks.

Slicer's build copies and installs exactly the files that CMake lists. `Testing/test_repository.py` fails
while the lists differ from the tree; this script puts them right: `python Utilities/list_cmake_sources.py`.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CMAKE_LISTS = ROOT / "DIANetLib" / "CMakeLists.txt"


def tracked_files(*patterns: str) -> list[str]:
    """Paths of the files that git tracks, relative to the repository root, sorted."""
    command = ["git", "ls-files", "-z", "--", *patterns]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted(path for path in output.split("\0") if path)


def expected_lists() -> dict[str, list[str]]:
    """What each list in the CMake file has to hold."""
    library = tracked_files("DIANetLib")
    return {
        "LIBRARY_SCRIPTS": [path for path in library if path.endswith(".py")],
        "LIBRARY_RESOURCES": [path for path in library if not path.endswith((".py", "CMakeLists.txt"))]
        + tracked_files("Resources/Models"),
    }


def written_lists(text: str) -> dict[str, list[str]]:
    """The `set(NAME ...)` lists that the text of a CMake file holds."""
    return {name: body.split() for name, body in re.findall(r"^set\((\w+)\n([^)]*)\)", text, re.MULTILINE)}


def main() -> None:
    """Replaces the lists in the CMake file."""
    text = CMAKE_LISTS.read_text(encoding="utf-8")
    for name, paths in expected_lists().items():
        lines = "".join(f"  {path}\n" for path in paths)
        text = re.sub(rf"^set\({name}\n[^)]*\)", f"set({name}\n{lines})", text, flags=re.MULTILINE)
    CMAKE_LISTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
