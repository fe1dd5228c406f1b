# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from Testing.training.tiny import config, load_all, write_cases
from training.datasets import PreparedCase


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight cases on disk; not to be changed."""
    return write_cases(tmp_path_factory.mktemp("data") / "balls")


@pytest.fixture(scope="session")
def cases(data: Path) -> list[PreparedCase]:
    """The same, prepared."""
    return load_all(data, config())
