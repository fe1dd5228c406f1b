# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from DIANetLib import errors


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("input", errors.InputError),
        ("config", errors.ConfigError),
        ("bundle", errors.BundleError),
        ("device", errors.DeviceError),
        ("output", errors.OutputError),
        ("dependency", errors.DependencyError),
        ("worker", errors.WorkerError),
        ("cancelled", errors.Cancelled),
    ],
)
def test_every_error_has_its_kind_and_survives_pickling(kind, error):
    first = error("It broke.", remedy="Mend it.")
    assert isinstance(first, errors.DIANetError)
    assert first.kind == kind
    assert str(first) == "It broke. Mend it."
    assert str(error("It broke.")) == "It broke."
    again = pickle.loads(pickle.dumps(first))
    assert (type(again), again.message, again.remedy) == (error, "It broke.", "Mend it.")


def test_cancelled_says_so_by_itself():
    assert str(errors.Cancelled()) == "The run was cancelled."


def test_an_installed_module_is_imported():
    assert errors.optional_import("json", feature="x", extra="y", version=">=1").dumps([]) == "[]"


def test_a_missing_module_names_feature_package_version_and_extra():
    with pytest.raises(errors.DependencyError) as caught:
        errors.optional_import(
            "no_such_package.sub", feature="the browser viewer", extra="view", version=">=2.0"
        )
    assert str(caught.value) == (
        "Missing package for the browser viewer: no_such_package >=2.0 is not installed."
        ' Install it with: pip install "dianet[view]"'
    )


def test_a_module_that_lacks_its_own_dependency_names_that(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.DependencyError, match="not_there_at_all is not installed"):
        errors.optional_import("half_there", feature="x", extra="y", version=">=1")


def test_the_core_modules_import_neither_torch_nor_simpleitk():
    code = (
        "import sys, DIANetLib, DIANetLib.errors, DIANetLib.structures, DIANetLib.volume;"
        "print(sorted({'torch', 'SimpleITK', 'scipy', 'monai'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
