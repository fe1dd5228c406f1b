# SPDX-License-Identifier: Apache-2.0
"""How long `dianet view` takes, from the end of its imports until a browser shows all four views.

    python -m Testing.benchmarks.viewer_start demo-output

The browser (Chromium, without a screen) is there already, as it is for most people.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from pathlib import Path

from Testing.viewer.chromium import Chromium
from Testing.viewer.conftest import viewing

_ONE = "[...document.querySelectorAll('.dn-view img')].some(i => i.naturalWidth > 50)"
_ALL = "[...document.querySelectorAll('.dn-view img')].filter(i => i.naturalWidth > 50).length == 4"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="an output folder")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as profile, Chromium(Path(profile)) as browser:
        for _ in range(options.rounds):
            begun = time.perf_counter()
            with viewing(options.folder) as viewer:
                listening = time.perf_counter()
                browser.open(viewer.url)
                browser.wait(_ONE, 60)
                first = time.perf_counter()
                browser.wait(_ALL, 60)
                shown = time.perf_counter()
                loading = float(re.search(r"after ([\d.]+) s", viewer.said).group(1))
                browser.open("about:blank")
            rows.append((listening - begun - loading, loading, first - listening, shown - listening))
            print(
                "imports {:.1f} s, loading {:.1f} s, page: first picture {:.1f} s, all four {:.1f} s;"
                " after the imports {:.1f} s".format(*rows[-1], rows[-1][1] + rows[-1][3]),
                flush=True,
            )
    median = statistics.median(row[1] + row[3] for row in rows)
    print(f"Median from the end of the imports to all pictures: {median:.1f} s")


if __name__ == "__main__":
    main()
