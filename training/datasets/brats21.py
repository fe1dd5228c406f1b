# SPDX-License-Identifier: Apache-2.0
"""BraTS 2021: a folder per patient, BraTS2021_00000/BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz.

Labels: 1 necrotic core, 2 oedema, 4 enhancing tumour. They are exclusive, as a softmax wants it; the nested
regions of the challenge are unions of them (`data.regions`): whole tumour 1 + 2 + 4, core 1 + 4, enhancing 4.

Baid et al., The RSNA-ASNR-MICCAI BraTS 2021 Benchmark, https://arxiv.org/abs/2107.02314.
"""

from __future__ import annotations

from pathlib import Path

from DIANetLib.errors import InputError
from training.config import DataConfig
from training.datasets.base import Case, modality_files

#: How the release ends the names of its images, and of its labels.
MODALITIES = ("t1", "t1ce", "t2", "flair")
LABELS = "seg"


def find_cases(folder: Path, config: DataConfig) -> tuple[Case, ...]:
    """List the patients of a folder, or of the training folder in it.

    Raises:
        InputError: if there is no patient's folder, or one lacks a required modality or its labels.
    """
    patients = sorted(path for path in folder.glob("**/BraTS2021_?????") if path.is_dir())
    if not patients:
        raise InputError(
            f"{folder} holds no folder BraTS2021_NNNNN of a patient.",
            remedy="Point --data to the unpacked training data of BraTS 2021.",
        )
    cases = []
    for patient in patients:
        name = patient.name
        files = {ending: patient / f"{name}_{ending}.nii.gz" for ending in (*MODALITIES, LABELS)}
        there = {ending: path for ending, path in files.items() if path.is_file()}
        labels = there.pop(LABELS, None)
        if labels is None and config.structures:
            raise InputError(
                f"case {name} has no annotation {files[LABELS].name}.",
                remedy="Use the training data; the validation data comes without.",
            )
        cases.append(Case(name, modality_files(config, there, name), labels))
    return tuple(cases)
