# SPDX-License-Identifier: Apache-2.0
"""Writes the repository's public address to where Slicer's index of extensions looks for it.

`python Utilities/set_public_address.py https://github.com/OWNER/SlicerDIANet [--branch main]`

The index reads `CMakeLists.txt` as text, without running CMake, and fetches the icon and the screenshots that
it names; so the addresses stand there in full, and only for files that exist.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ICON = "DIANetSegmenter/Resources/Icons/DIANetSegmenter.png"
SCREENSHOTS = "Resources/Screenshots"

_BLOCK = re.compile(r"(# --- public address: [^\n]*\n).*?(# --- end of public address ---\n)", re.DOTALL)
_ADDRESS = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]*[Ss]licer[\w.-]*?)(?:\.git)?/?")


def write(root: Path, address: str, branch: str) -> None:
    """Write the address into `CMakeLists.txt` and `docs/extension/DIANet.json` of a clone.

    Args:
        root: The clone.
        address: `https://github.com/OWNER/NAME`, where the name holds "Slicer".
        branch: The branch that users get.

    Raises:
        ValueError: the address is of another form, or a file is not what it should be.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(
            f"The address is {address!r}, expected https://github.com/OWNER/NAME with Slicer in the name."
        )
    page = f"https://github.com/{match[1]}/{match[2]}"
    files = f"https://raw.githubusercontent.com/{match[1]}/{match[2]}/{branch}"
    pictures = sorted(path.name for path in (root / SCREENSHOTS).glob("*.png"))
    if not pictures or not (root / ICON).is_file():
        raise ValueError(f"Expected {ICON} and at least one picture in {SCREENSHOTS}.")
    screenshots = " ".join(f"{files}/{SCREENSHOTS}/{name}" for name in pictures)
    lines = (
        f'set(EXTENSION_HOMEPAGE "{page}")\n'
        f'set(EXTENSION_ICONURL "{files}/{ICON}")\n'
        f'set(EXTENSION_SCREENSHOTURLS "{screenshots}")\n'
    )
    cmake = root / "CMakeLists.txt"
    text, count = _BLOCK.subn(lambda m: m[1] + lines + m[2], cmake.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{cmake} has {count} blocks for the public address, expected 1.")
    cmake.write_text(text, encoding="utf-8")
    entry = root / "docs" / "extension" / "DIANet.json"
    description = json.loads(entry.read_text(encoding="utf-8"))
    description |= {"scm_url": f"{page}.git", "scm_revision": branch}
    entry.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="https://github.com/OWNER/NAME")
    parser.add_argument("--branch", default="main", help="the branch that users get (default: main)")
    arguments = parser.parse_args()
    try:
        write(ROOT, arguments.address, arguments.branch)
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
