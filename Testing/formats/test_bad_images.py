# SPDX-License-Identifier: Apache-2.0
"""Every bad input gets a sentence with what to do, and nothing is printed by the readers underneath."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (the name that its own documentation uses)

from DIANetLib.errors import InputError
from DIANetLib.formats.image import read_volume, write_volume
from DIANetLib.volume import Geometry, Volume

GRID = Geometry((6, 7, 8), (1.0, 1.0, 2.0), (10.0, 20.0, 30.0), np.eye(3))
PIXDIM, SROW, QFORM_CODE = 76, 280, 252  # offsets in a NIfTI-1 header


@pytest.fixture
def good() -> Volume:
    return Volume(np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32), GRID)


@pytest.fixture
def refused(capfd):
    """`refused(path, sentence)` reads a path and expects a sentence, with a remedy, and silence on stderr."""

    def check(path: Path, sentence: str) -> None:
        with pytest.raises(InputError, match=sentence) as caught:
            read_volume(path)
        assert caught.value.message.endswith(".")
        assert caught.value.remedy
        assert caught.value.remedy.endswith(".")
        assert "itk::" not in str(caught.value)
        out, err = capfd.readouterr()
        assert out == ""
        assert err == ""

    return check


def patched(good: Volume, path: Path, offset: int, form: str, *values: float) -> Path:
    """Write the volume as NIfTI with other bytes at a place of the header."""
    write_volume(good, path)
    zipped = path.name.endswith(".gz")
    data = bytearray(gzip.decompress(path.read_bytes()) if zipped else path.read_bytes())
    struct.pack_into("<" + form, data, offset, *values)
    path.write_bytes(gzip.compress(data) if zipped else bytes(data))
    return path


def text_patched(good: Volume, path: Path, pattern: str, replacement: str) -> Path:
    """Write the volume uncompressed with a changed line in its text header."""
    write_volume(good, path, compress=False)
    data, count = re.subn(pattern.encode(), replacement.encode(), path.read_bytes(), count=1)
    assert count == 1
    path.write_bytes(data)
    return path


def test_no_such_file(tmp_path, refused):
    refused(tmp_path / "no.nii.gz", "There is no file or folder .*no.nii.gz")


@pytest.mark.parametrize("name", ["a.txt", "a.nii.gz", "a.nii", "a.nrrd", "a.mha", "a", "a.png", "a.dcm"])
def test_not_an_image(tmp_path, refused, name):
    (tmp_path / name).write_text("This is a letter.\n" * 100)
    refused(tmp_path / name, f"{name} is not an image that can be read. Expected NIfTI")


def test_an_empty_file(tmp_path, refused):
    (tmp_path / "a.nii.gz").touch()
    refused(tmp_path / "a.nii.gz", "a.nii.gz is empty")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_a_truncated_gzip(tmp_path, good, refused, part):
    write_volume(good, tmp_path / "a.nii.gz")
    data = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(data[: int(part * len(data))])
    refused(tmp_path / "a.nii.gz", "a.nii.gz is truncated: it ends before its data does")


def test_a_damaged_gzip(tmp_path, good, refused):
    write_volume(good, tmp_path / "a.nii.gz")
    data = bytearray((tmp_path / "a.nii.gz").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.nii.gz").write_bytes(data)
    refused(tmp_path / "a.nii.gz", "a.nii.gz is damaged")


@pytest.mark.parametrize("name", ["a.nii", "a.mha"])
@pytest.mark.parametrize("compress", [False, True])
def test_a_truncated_file_that_tells_its_length(tmp_path, good, refused, name, compress):
    write_volume(good, tmp_path / name, compress=compress)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-100])
    refused(tmp_path / name, f"{name} is truncated: its header announces .* bytes, it has")


def test_a_nifti_header_that_is_cut_off(tmp_path, good, refused):
    write_volume(good, tmp_path / "a.nii")
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:347])
    refused(tmp_path / "a.nii", "a.nii is truncated")


@pytest.mark.parametrize("compress", [False, True])
def test_a_truncated_nrrd(tmp_path, good, refused, compress):
    write_volume(good, tmp_path / "a.nrrd", compress=compress)
    data = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(data[:-100])
    refused(tmp_path / "a.nrrd", "a.nrrd (is truncated|cannot be read)")


def test_a_gzip_shorter_than_its_header_announces(tmp_path, good, refused):
    write_volume(good, tmp_path / "a.nii")
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()[:-4]))
    refused(tmp_path / "a.nii.gz", "announces 1,696 bytes, it has 1,692")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_a_4d_image(tmp_path, refused, name):
    image = sitk.Image([6, 7, 8, 3], sitk.sitkFloat32)
    sitk.WriteImage(image, str(tmp_path / name))
    refused(tmp_path / name, f"{name} is 4-D: 6 × 7 × 8 voxels and 3 time points .* extract the one")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha", "a.png"])
def test_a_colour_image(tmp_path, refused, name):
    array = np.random.default_rng(0).integers(0, 255, (1, 7, 6, 3) if name != "a.png" else (7, 6, 3))
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint8), isVector=True), str(tmp_path / name))
    refused(tmp_path / name, f"{name} is a colour image with 3 values per voxel, expected one")


def test_a_nifti_of_the_rgb_type(tmp_path, refused):
    array = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    refused(tmp_path / "a.nii.gz", "is a colour image with 3 values per voxel")


def test_a_complex_image(tmp_path, refused):
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.complex64), np.eye(4)), tmp_path / "a.nii.gz")
    refused(tmp_path / "a.nii.gz", "is an image with 2 values per voxel")


def test_a_displacement_field(tmp_path, refused):
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4, 1, 5), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    refused(tmp_path / "a.nii.gz", "is an image with 5 values per voxel")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers(tmp_path, good, refused, name, value):
    good.array[1, 2, 3:5] = value
    write_volume(good, tmp_path / name)
    refused(tmp_path / name, "has 2 of 336 voxels NaN or infinite. Replace them")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_constant_image(tmp_path, refused, dtype):
    write_volume(Volume(np.full(GRID.shape, 7, dtype=dtype), GRID), tmp_path / "a.nii.gz")
    refused(tmp_path / "a.nii.gz", "is constant: every voxel has the value 7")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "1 × 0 × 2"), (-1.0, "1 × -1 × 2"), (np.nan, "1 × nan × 2")]
)
def test_a_nifti_spacing_that_is_not_positive(tmp_path, good, refused, name, value, text):
    path = patched(good, tmp_path / name, PIXDIM + 8, "f", value)
    refused(path, f"has a voxel spacing of {text} mm, expected positive numbers. Correct the spacing")


@pytest.mark.parametrize(("row", "text"), [("(0,0,0)", "1 × 0 × 2"), ("(0,nan,0)", "1 × nan × 2")])
def test_an_nrrd_spacing_that_is_not_positive(tmp_path, good, refused, row, text):
    path = text_patched(
        good, tmp_path / "a.nrrd", r"directions: \(1,0,0\) \(0,1,0\)", f"directions: (1,0,0) {row}"
    )
    refused(path, f"has a voxel spacing of {text} mm")


@pytest.mark.parametrize(("value", "text"), [("0", "1 × 0 × 2"), ("-1", "1 × -1 × 2")])
def test_an_nrrd_with_plain_spacings_that_are_not_positive(tmp_path, good, refused, value, text):
    path = text_patched(good, tmp_path / "a.nrrd", r"space directions: [^\n]*", f"spacings: 1 {value} 2")
    data = re.sub(rb"space( origin)?: [^\n]*\n", b"", path.read_bytes())
    path.write_bytes(data)
    refused(path, f"has a voxel spacing of {text} mm")


@pytest.mark.parametrize(("value", "text"), [("0", "1 × 0 × 2"), ("-1", "1 × -1 × 2")])
def test_a_metaimage_spacing_that_is_not_positive(tmp_path, good, refused, value, text):
    path = text_patched(good, tmp_path / "a.mha", "ElementSpacing = 1 1 2", f"ElementSpacing = 1 {value} 2")
    refused(path, f"has a voxel spacing of {text} mm")


def test_a_nifti_with_a_singular_direction(tmp_path, good, refused):
    path = patched(good, tmp_path / "a.nii.gz", SROW, "12f", 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0)
    refused(path, "no usable grid: The direction matrix .* is singular")


def test_a_nifti_with_nothing_but_a_skewed_sform(tmp_path, good, refused):
    patched(good, tmp_path / "a.nii", SROW, "12f", 1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0)
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<h", data, QFORM_CODE, 0)
    (tmp_path / "a.nii").write_bytes(data)
    refused(tmp_path / "a.nii", "is off from three perpendicular unit vectors by 0.45")


def test_an_nrrd_with_a_singular_direction(tmp_path, good, refused):
    path = text_patched(good, tmp_path / "a.nrrd", r"directions: \(1,0,0\)", "directions: (0,1,0)")
    refused(path, "The direction matrix .* is singular")


def test_a_metaimage_with_a_singular_direction(tmp_path, good, refused):
    path = text_patched(good, tmp_path / "a.mha", "TransformMatrix = 1 0 0", "TransformMatrix = 0 1 0")
    refused(path, "The direction matrix .* is singular")


@pytest.mark.parametrize(
    ("name", "pattern", "replacement"),
    [
        ("a.nrrd", r"sizes: [^\n]*\n", ""),
        ("a.nrrd", r"sizes: 6", "sizes: six"),
        ("a.mha", r"DimSize = 6", "DimSize = six"),
    ],
)
def test_a_header_that_makes_no_sense(tmp_path, good, refused, name, pattern, replacement):
    refused(text_patched(good, tmp_path / name, pattern, replacement), "header of .* is damaged")


def test_nifti_dimensions_that_make_no_sense(tmp_path, good, refused):
    refused(patched(good, tmp_path / "a.nii", 42, "h", -3), "is damaged: its dimensions are")


def test_voxels_that_are_no_numbers_far_into_a_large_file(tmp_path, refused):
    grid = Geometry((64, 64, 80), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))  # 1.25 MiB of float32
    array = np.arange(grid.size[0] * grid.size[1] * grid.size[2], dtype=np.float32).reshape(grid.shape)
    array[-1, -1, -1] = np.nan
    array[63, 63, 60:64] = np.inf
    write_volume(Volume(array, grid), tmp_path / "a.nii.gz")
    refused(tmp_path / "a.nii.gz", "has 5 of 327680 voxels NaN or infinite")


def test_a_nifti_2_file(tmp_path, refused):
    nibabel.save(nibabel.Nifti2Image(np.ones((4, 4, 4), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    refused(tmp_path / "a.nii.gz", "is in NIfTI-2 format, expected NIfTI-1")


def test_a_file_that_may_not_be_read(tmp_path, good, monkeypatch):
    write_volume(good, tmp_path / "a.nii")

    def denied(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(InputError, match=r"Cannot read .*a\.nii: Permission denied"):
        read_volume(tmp_path / "a.nii")
