# SPDX-License-Identifier: Apache-2.0
"""The one part of the packaging that pyproject.toml cannot say without a hand-kept list of packages.

The bundled models live in `Resources/Models`, where a Slicer extension keeps such things; an installed
distribution carries them as `DIANetLib/Resources/Models`. See docs/decisions/0001-layout-and-contracts.md.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["DIANetLib*", "training*"]), "DIANetLib.Resources"],
    package_dir={"DIANetLib.Resources": "Resources"},
    package_data={
        "DIANetLib": ["py.typed"],
        "DIANetLib.Resources": ["Models/**/*"],
        "training": ["configs/*.yaml"],
    },
    include_package_data=False,
)
