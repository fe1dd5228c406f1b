# SPDX-License-Identifier: Apache-2.0
"""`python -m DIANetLib` is the `dianet` command."""

import sys

from DIANetLib.cli import main

if __name__ == "__main__":
    sys.exit(main())
