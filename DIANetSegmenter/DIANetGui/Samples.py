# SPDX-License-Identifier: Apache-2.0
"""Sample data: a T1-weighted head from Slicer's own public testing data, to try the module on."""

from __future__ import annotations

from pathlib import Path

from .Translate import tr as _

__all__ = ["CATEGORY", "SAMPLE", "registerSamples"]

CATEGORY = "DIANet"
SAMPLE = "DIANetHead"

_SHA256 = "cc211f0dfd9a05ca3841ce1141b292898b2dd2d3f08286affadf823a7e58df93"
_URL = f"https://github.com/Slicer/SlicerTestingData/releases/download/SHA256/{_SHA256}"


def registerSamples() -> None:
    """Add the sample to Slicer's Sample Data module; adding it again changes nothing."""
    import SampleData

    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # newer than Slicer 5.10
        logic.registerCustomSampleDataCategory(CATEGORY, title=_("DIANet"))
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=SAMPLE,
        uris=_URL,
        fileNames="MR-head.nrrd",
        nodeNames="MRHead T1",
        checksums=f"SHA256:{_SHA256}",
        thumbnailFileName=str(Path(__file__).parent.parent / "Resources" / "Icons" / "DIANetSegmenter.png"),
    )
