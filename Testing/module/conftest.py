# SPDX-License-Identifier: Apache-2.0
"""What the tests of the Slicer module share."""

from __future__ import annotations

import pytest


@pytest.fixture
def environment():
    """A fresh MRML scene with its logics; skips where there is no slicer-core."""
    from Testing.module.bootstrap import make_environment

    return make_environment()
