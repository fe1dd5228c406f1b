# SPDX-License-Identifier: Apache-2.0
"""DICOM folders, written here with pydicom so that writer and reader are independent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from DIANetLib.errors import InputError
from DIANetLib.formats.dicom import list_series, read_series
from DIANetLib.formats.image import read_volume
from DIANetLib.volume import Geometry, Volume

GRID = Geometry((5, 4, 6), (0.5, 0.75, 2.0), (-10.0, 20.0, 30.0), np.eye(3))
UID_A, UID_B, FRAME = (
    "1.2.826.0.1.3680043.8.498.1",
    "1.2.826.0.1.3680043.8.498.2",
    "1.2.826.0.1.3680043.8.498.3",
)


def make(grid: Geometry = GRID, seed: int = 0) -> Volume:
    return Volume(np.random.default_rng(seed).integers(0, 1000, grid.shape).astype(np.int16), grid)


def write_slice(path: Path, volume: Volume, k: int, **tags: object) -> None:
    """Write slice k of a volume as an MR image; `tags` replaces or adds elements."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3", UID_A, FRAME
    data.SeriesDescription, data.Modality, data.PatientName, data.PatientID = "T1 axial", "MR", "Test", "1"
    data.InstanceNumber = 1
    geometry = volume.geometry
    data.ImagePositionPatient = [f"{v:.10g}" for v in geometry.index_to_world([0, 0, k])]
    data.ImageOrientationPatient = [f"{v:.10g}" for v in geometry.direction[:, :2].T.ravel()]
    data.PixelSpacing = [
        f"{geometry.spacing[1]:.10g}",
        f"{geometry.spacing[0]:.10g}",
    ]  # between rows comes first
    data.SliceThickness = f"{geometry.spacing[2]:.10g}"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = volume.array.shape[1:]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.PixelData = np.ascontiguousarray(volume.array[k]).tobytes()
    for key, value in tags.items():
        setattr(data, key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def write_series(folder: Path, volume: Volume, *, skip: tuple[int, ...] = (), **tags: object) -> None:
    """Write a volume slice by slice under names that do not follow their positions."""
    names = np.random.default_rng(1).permutation(volume.array.shape[0])
    for k, name in enumerate(names):
        if k not in skip:
            write_slice(folder / f"IM{name:04d}.dcm", volume, k, **tags)


def test_slices_are_ordered_by_position_whatever_their_names(tmp_path):
    volume = make()
    write_series(tmp_path, volume)
    again = read_volume(tmp_path, modality="T1")
    np.testing.assert_array_equal(again.array, volume.array)
    assert again.geometry.same_grid(GRID, tolerance=1e-6)
    assert (again.name, again.modality, again.frame_of_reference) == ("T1 axial", "T1", FRAME)
    assert again.source == str(tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_oblique_series_keep_their_grid(tmp_path, oblique_geometry, seed):
    geometry = oblique_geometry(seed)
    # DICOM has no handedness: slices run along the cross product of rows and columns.
    normal = np.cross(geometry.direction[:, 0], geometry.direction[:, 1])
    direction = np.column_stack([geometry.direction[:, :2], normal])
    volume = make(Geometry(geometry.size, geometry.spacing, geometry.origin, direction), seed)
    write_series(tmp_path, volume)
    again = read_series(tmp_path)
    assert again.geometry.same_grid(volume.geometry, tolerance=1e-5)  # ten digits were written
    np.testing.assert_array_equal(again.array, volume.array)


def test_stored_values_are_rescaled(tmp_path):
    volume = make()
    write_series(tmp_path, volume, RescaleSlope="2", RescaleIntercept="-1000")
    np.testing.assert_array_equal(read_series(tmp_path).array, 2.0 * volume.array - 1000)


def test_sub_folders_files_without_ending_and_other_files_are_coped_with(tmp_path):
    volume = make()
    for k in range(6):
        write_slice(tmp_path / f"sub{k % 2}" / f"I{k}", volume, k)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "README").write_text("hello")
    np.testing.assert_array_equal(read_series(tmp_path).array, volume.array)


def test_series_are_listed(tmp_path):
    write_series(tmp_path / "a", make())
    write_series(tmp_path / "b", make(), skip=(0,), SeriesInstanceUID=UID_B, SeriesDescription="FLAIR")
    a, b = list_series(tmp_path)
    assert (a.uid, a.description, a.modality, len(a.files)) == (UID_A, "T1 axial", "MR", 6)
    assert (b.uid, b.description, b.frame_of_reference, len(b.files)) == (UID_B, "FLAIR", FRAME, 5)


def test_one_of_two_series_is_chosen_by_uid_or_description(tmp_path):
    write_series(tmp_path / "a", make())
    write_series(tmp_path / "b", make(seed=5), SeriesInstanceUID=UID_B, SeriesDescription="FLAIR")
    np.testing.assert_array_equal(read_volume(tmp_path, series=UID_B).array, make(seed=5).array)
    np.testing.assert_array_equal(read_volume(tmp_path, series="T1 axial").array, make().array)


def test_two_series_in_one_folder_are_listed_and_a_choice_is_asked_for(tmp_path):
    write_series(tmp_path, make())
    write_slice(tmp_path / "other.dcm", make(), 0, SeriesInstanceUID=UID_B, SeriesDescription="")
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path)
    assert caught.value.message == (
        f"The folder {tmp_path} has 2 DICOM series: {UID_A} (T1 axial, 6 images);"
        f" {UID_B} (no description, 1 image)."
    )
    assert caught.value.remedy == "Choose one with --series UID."


def test_a_series_that_is_not_there_is_refused(tmp_path):
    write_series(tmp_path, make())
    with pytest.raises(InputError, match=r"has no series '9\.9', it has .*T1 axial, 6 images"):
        read_volume(tmp_path, series="9.9")


def test_a_description_of_two_series_does_not_choose(tmp_path):
    write_series(tmp_path / "a", make())
    write_series(tmp_path / "b", make(), SeriesInstanceUID=UID_B)
    with pytest.raises(InputError, match=r"has several series 'T1 axial'.*by its UID"):
        read_volume(tmp_path, series="T1 axial")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no DICOM images: it is empty. Give a folder"):
        read_volume(tmp_path)


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "b.txt").write_text("x")
    (tmp_path / "a.nii.gz").write_text("x")
    with pytest.raises(
        InputError, match=r"has no DICOM images: it holds 2 other entries, such as a\.nii\.gz"
    ):
        read_volume(tmp_path)


def test_listing_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="There is no folder"):
        list_series(tmp_path / "no")


def test_missing_slices_are_named(tmp_path, capfd):
    write_series(tmp_path, make(), skip=(3,))
    with pytest.raises(
        InputError,
        match=r"unevenly spaced: 4 mm after slice 3 where the others have 2 mm; 1 slice is missing\.",
    ):
        read_volume(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_uneven_slices_are_refused(tmp_path):
    volume = make()
    write_series(tmp_path, volume)
    write_slice(tmp_path / "last.dcm", volume, 5, ImagePositionPatient=["-10", "20", "42.7"])
    with pytest.raises(InputError, match=r"2.7 mm after slice 6 where the others have 2 mm; no slice seems"):
        read_volume(tmp_path)


def test_time_points_in_one_series_are_refused(tmp_path):
    for time in range(2):
        write_series(tmp_path / str(time), make(seed=time))
    with pytest.raises(
        InputError, match=r"several images share a position: 12 images at 6 positions. It is 4-D"
    ):
        read_volume(tmp_path)


def test_slices_of_another_size_are_refused(tmp_path):
    write_series(tmp_path, make(), skip=(5,))
    write_slice(
        tmp_path / "last.dcm", make(Geometry((7, 4, 6), GRID.spacing, GRID.origin, GRID.direction)), 5
    )
    with pytest.raises(InputError, match="differ in size \\(5 × 4, 7 × 4\\)"):
        read_volume(tmp_path)


def test_a_localizer_is_refused(tmp_path):
    write_series(tmp_path, make(), skip=(5,))
    write_slice(tmp_path / "last.dcm", make(), 5, ImageOrientationPatient=["0", "1", "0", "0", "0", "1"])
    with pytest.raises(InputError, match="differ in orientation or pixel spacing"):
        read_volume(tmp_path)


def test_a_tilted_gantry_is_refused(tmp_path):
    for k in range(6):
        position = [f"{v:g}" for v in (-10.0, 20.0 + 0.3 * k, 30.0 + 2 * k)]
        write_slice(tmp_path / f"{k}.dcm", make(), k, ImagePositionPatient=position)
    with pytest.raises(InputError, match="shifted sideways one by one"):
        read_volume(tmp_path)


@pytest.mark.parametrize("spacing", [["0", "0.5"], ["-0.75", "0.5"]])
def test_a_pixel_spacing_that_is_not_positive_is_refused(tmp_path, spacing):
    write_series(tmp_path, make(), PixelSpacing=spacing)
    with pytest.raises(
        InputError, match=rf"has a pixel spacing of {float(spacing[0]):g} × 0.5 mm, expected positive"
    ):
        read_volume(tmp_path)


def test_colour_images_are_refused(tmp_path):
    pixels = np.zeros((4, 5, 3), dtype=np.uint8).tobytes()
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    write_series(tmp_path, make(), **tags, **bits, PixelData=pixels)
    with pytest.raises(InputError, match="is a colour image with 3 values per voxel"):
        read_volume(tmp_path)


def test_images_whose_pixels_are_cut_off_are_refused(tmp_path, capfd):
    write_series(tmp_path, make())
    path = sorted(tmp_path.iterdir())[0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="T1 axial"):
        read_volume(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_single_image_is_one_slice(tmp_path):
    write_slice(tmp_path / "a.dcm", make(), 2)
    volume = read_volume(tmp_path)
    assert volume.array.shape == (1, 4, 5)
    np.testing.assert_array_equal(volume.array[0], make().array[2])
    assert pydicom.dcmread(tmp_path / "a.dcm").Rows == 4
