# SPDX-License-Identifier: Apache-2.0
"""Round trips of images through files, and resampling."""

from __future__ import annotations

import gzip
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (the name that its own documentation uses)

from DIANetLib.errors import InputError, OutputError
from DIANetLib.formats.atomic import atomic_file
from DIANetLib.formats.image import from_sitk, read_labels, read_volume, resample_to, to_sitk, write_volume
from DIANetLib.volume import Geometry, Volume

RAS = Geometry((4, 5, 6), (1.0, 1.0, 2.0), (10.0, 20.0, 30.0), np.diag([-1.0, -1.0, 1.0]))


def farthest(a: Geometry, b: Geometry) -> float:
    """Distance in mm between the farthest pair of corresponding corners."""
    return float(np.linalg.norm(a.corners_world() - b.corners_world(), axis=1).max())


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("seed", range(10))
def test_text_headers_keep_an_oblique_grid_to_a_millionth_of_a_mm(
    tmp_path, oblique_geometry, blob, ending, seed
):
    volume = blob(oblique_geometry(seed))
    write_volume(volume, tmp_path / f"a{ending}")
    again = read_volume(tmp_path / f"a{ending}")
    assert volume.geometry.same_grid(again.geometry, tolerance=1e-6)
    np.testing.assert_array_equal(again.array, volume.array)
    assert again.array.dtype == volume.array.dtype


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("seed", range(10))
def test_nifti_keeps_an_oblique_grid_as_well_as_float32_can(tmp_path, oblique_geometry, blob, ending, seed):
    volume = blob(oblique_geometry(seed))
    write_volume(volume, tmp_path / f"a{ending}")
    again = read_volume(tmp_path / f"a{ending}")
    # Half a unit in the last place of float32 at 256 mm is 1.5e-5 mm; three coordinates make 2.6e-5 mm.
    assert farthest(volume.geometry, again.geometry) < 3e-5
    nearest = Geometry.from_affine(volume.geometry.affine.astype(np.float32), volume.geometry.size)
    assert farthest(nearest, again.geometry) < 1e-10
    np.testing.assert_array_equal(again.array, volume.array)


@pytest.mark.parametrize("seed", range(5))
def test_a_grid_from_nifti_goes_back_to_nifti_unchanged(tmp_path, oblique_geometry, blob, seed):
    write_volume(blob(oblique_geometry(seed)), tmp_path / "a.nii.gz")
    first = read_volume(tmp_path / "a.nii.gz")
    write_volume(first, tmp_path / "b.nii.gz")
    assert first.geometry.same_grid(read_volume(tmp_path / "b.nii.gz").geometry, tolerance=1e-10)
    a, b = nibabel.load(tmp_path / "a.nii.gz"), nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(a.header.get_sform(), b.header.get_sform())


@pytest.mark.parametrize("seed", range(10))
def test_other_readers_see_the_same_grid_in_the_sform_and_in_the_qform(
    tmp_path, oblique_geometry, blob, seed
):
    volume = blob(oblique_geometry(seed))
    write_volume(volume, tmp_path / "a.nii.gz")
    header = nibabel.load(tmp_path / "a.nii.gz").header
    expected = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.geometry.affine
    np.testing.assert_allclose(header.get_sform(), expected, atol=2e-5)
    np.testing.assert_allclose(header.get_qform(), expected, atol=2e-5)
    assert header.get_xyzt_units()[0] == "mm"
    with_itk = from_sitk(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    assert farthest(with_itk.geometry, volume.geometry) < 1e-4
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj).T, volume.array)


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"],
)
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_every_voxel_type_comes_back(tmp_path, dtype, ending):
    array = (np.arange(120).reshape(RAS.shape) % 2 if dtype == "bool" else np.arange(120)).reshape(RAS.shape)
    write_volume(Volume(array.astype(dtype), RAS), tmp_path / f"a{ending}")
    again = read_volume(tmp_path / f"a{ending}")
    assert again.array.dtype == (np.uint8 if dtype == "bool" else np.dtype(dtype))
    np.testing.assert_array_equal(again.array, array)


def test_the_volume_remembers_name_modality_and_source(tmp_path, blob):
    write_volume(blob(RAS), tmp_path / "head.nii.gz")
    volume = read_volume(str(tmp_path / "head.nii.gz"), modality="T1")
    assert (volume.name, volume.modality, volume.source) == ("head", "T1", str(tmp_path / "head.nii.gz"))


def test_trailing_axes_of_one_sample_are_dropped(tmp_path):
    array = np.arange(120, dtype=np.float32).reshape(4, 5, 6, 1)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1, -1, 2, 1])), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.array, array[..., 0].T)
    assert volume.geometry.spacing == (1.0, 1.0, 2.0)
    assert volume.geometry.anatomical_axes == "LPS"


def test_a_2d_image_is_a_volume_of_one_slice(tmp_path):
    image = sitk.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    image.SetSpacing((0.5, 0.25))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    volume = read_volume(tmp_path / "a.nrrd")
    assert volume.array.shape == (1, 3, 4)
    assert volume.geometry.spacing == (0.5, 0.25, 1.0)


def test_big_endian_files_are_read(tmp_path):
    array = np.arange(120, dtype=np.float32).reshape(4, 5, 6)
    affine = np.array([[0, -2.0, 0, 5], [3.0, 0, 0, 6], [0, 0, 1.5, 7], [0, 0, 0, 1]])
    swapped = nibabel.Nifti1Image(array, affine).header.as_byteswapped(">")
    nibabel.save(nibabel.Nifti1Image(array.astype(">f4"), affine, swapped), tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.array, array.T)
    np.testing.assert_allclose(volume.geometry.affine, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-12)


def test_stored_integers_are_rescaled(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -3.0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    stored = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii.gz").array, stored.get_fdata().T)


def test_the_qform_is_read_where_the_sform_is_skewed(tmp_path):
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), None)
    image.set_qform(np.diag([2.0, 2.0, 2.0, 1.0]), code=1)
    image.set_sform(np.array([[2, 0.5, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]]), code=2)
    nibabel.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(
        read_volume(tmp_path / "a.nii.gz").geometry.affine, np.diag([-2, -2, 2, 1]), atol=1e-6
    )


def test_labels_may_be_empty_and_take_the_smallest_type(tmp_path):
    write_volume(Volume(np.zeros(RAS.shape), RAS), tmp_path / "empty.nii.gz")
    assert read_labels(tmp_path / "empty.nii.gz").array.dtype == np.uint8
    write_volume(Volume(np.full(RAS.shape, 300.0, np.float32), RAS), tmp_path / "large.nii.gz")
    assert read_labels(tmp_path / "large.nii.gz").array.dtype == np.uint16


@pytest.mark.parametrize(("value", "sentence"), [(0.5, "are not whole numbers"), (-1.0, "go down to -1")])
def test_labels_that_are_none_are_refused(tmp_path, value, sentence):
    write_volume(Volume(np.full(RAS.shape, value), RAS), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=sentence):
        read_labels(tmp_path / "a.nii.gz")


def test_a_folder_is_no_labelmap(tmp_path):
    with pytest.raises(InputError, match="is a folder, expected a labelmap file"):
        read_labels(tmp_path)


def test_the_same_volume_gives_the_same_bytes(tmp_path, blob):
    write_volume(blob(RAS), tmp_path / "a.nii.gz")
    write_volume(blob(RAS), tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_written_file_has_the_usual_permissions_and_no_company(tmp_path, blob):
    mask = os.umask(0o022)
    try:
        write_volume(blob(RAS), tmp_path / "a.nii.gz")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a.nii.gz").stat().st_mode) == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


def test_an_unknown_ending_is_refused(tmp_path, blob):
    with pytest.raises(OutputError, match=r"expected a name that ends in \.nii\.gz"):
        write_volume(blob(RAS), tmp_path / "a.png")


def test_a_missing_folder_is_refused_with_a_sentence(tmp_path, blob):
    with pytest.raises(
        OutputError, match=r"Cannot write .*: No such file or directory. Check that the folder exists"
    ):
        write_volume(blob(RAS), tmp_path / "no" / "a.nii.gz")


def test_float16_is_left_to_nrrd(tmp_path):
    volume = Volume(np.arange(120).reshape(RAS.shape).astype(np.float16), RAS)
    with pytest.raises(OutputError, match="NIfTI cannot hold voxels of type float16"):
        write_volume(volume, tmp_path / "a.nii.gz")
    write_volume(volume, tmp_path / "a.nrrd")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd").array, volume.array.astype(np.float32))
    assert [p.name for p in tmp_path.iterdir()] == ["a.nrrd"]


FULL_DISK = """
    import resource, signal, sys
    import numpy as np
    from DIANetLib.errors import OutputError
    from DIANetLib.formats.image import write_volume
    from DIANetLib.volume import Geometry, Volume
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    array = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    volume = Volume(array, Geometry((40, 40, 40), (1, 1, 1), (0, 0, 0), np.eye(3)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    try:
        write_volume(volume, sys.argv[1])
    except OutputError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the file size, which Windows cannot")
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
def test_a_file_that_does_not_fit_is_reported_and_removed(tmp_path, name):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.startswith(f"Cannot write {tmp_path / name}: ")
    assert "that the disk has space" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path):
    def fail() -> None:
        with atomic_file(tmp_path / "a.txt", ".txt") as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("seed", range(5))
def test_simpleitk_images_have_the_same_grid(oblique_geometry, blob, seed):
    volume = blob(oblique_geometry(seed))
    image = to_sitk(volume)
    assert farthest(from_sitk(image).geometry, volume.geometry) < 1e-9
    point = image.TransformContinuousIndexToPhysicalPoint((1.5, 2.0, 0.25))
    np.testing.assert_allclose(point, volume.geometry.index_to_world([1.5, 2.0, 0.25]), atol=1e-9)
    np.testing.assert_array_equal(from_sitk(image).array, volume.array)


def test_resampling_onto_the_same_grid_returns_the_voxels_themselves(blob):
    volume = blob(RAS)
    assert resample_to(volume, RAS).array is volume.array


@pytest.mark.parametrize("seed", range(5))
def test_linear_resampling_is_exact_on_a_linear_field(oblique_geometry, seed):
    source = oblique_geometry(seed, (20, 20, 20))
    k, j, i = np.meshgrid(*(np.arange(20.0),) * 3, indexing="ij")
    world = source.index_to_world(np.stack([i, j, k], axis=-1))
    slope = np.array([0.3, -0.2, 0.1])
    target = Geometry((5, 5, 5), (1.0, 1.0, 1.0), tuple(source.index_to_world([8, 8, 8])), source.direction)
    kk, jj, ii = np.meshgrid(*(np.arange(5.0),) * 3, indexing="ij")
    expected = target.index_to_world(np.stack([ii, jj, kk], axis=-1)) @ slope
    result = resample_to(Volume(world @ slope, source), target)
    inside = (source.world_to_index(target.index_to_world(np.stack([ii, jj, kk], axis=-1))) < 19).all(axis=-1)
    assert inside.any()
    np.testing.assert_allclose(result.array[inside], expected[inside], atol=1e-9)


def test_nearest_resampling_keeps_type_and_values_and_fills_the_outside():
    labels = Volume(np.full(RAS.shape, 3, dtype=np.uint8), RAS)
    shifted = Geometry(RAS.size, RAS.spacing, (8.0, 20.0, 30.0), RAS.direction)  # two voxels further along i
    result = resample_to(labels, shifted, interpolation="nearest", outside=9)
    assert result.array.dtype == np.uint8
    np.testing.assert_array_equal(result.array[0, 0], [3, 3, 9, 9])
    mask = resample_to(labels.with_array(labels.array > 0), shifted, interpolation="nearest")
    assert mask.array.dtype == bool


def test_integers_become_float_when_interpolated():
    image = Volume(np.arange(120, dtype=np.int16).reshape(RAS.shape), RAS)
    half = Geometry((3, 5, 6), RAS.spacing, (9.5, 20.0, 30.0), RAS.direction)
    result = resample_to(image, half, interpolation="linear")
    np.testing.assert_allclose(result.array[0, 0], [0.5, 1.5, 2.5])
    assert resample_to(image, half, interpolation="bspline").array.dtype == np.float32


def test_a_gzip_file_without_its_usual_name_ending_is_still_checked(tmp_path, blob):
    write_volume(blob(RAS), tmp_path / "a.nii")
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    np.testing.assert_array_equal(
        read_volume(tmp_path / "b.nii.gz").array, read_volume(tmp_path / "a.nii").array
    )
