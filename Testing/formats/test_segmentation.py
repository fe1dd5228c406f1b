# SPDX-License-Identifier: Apache-2.0
"""Slicer segmentations, read back by this library and by two others (slicerio, pynrrd)."""

from __future__ import annotations

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (the name that its own documentation uses)
import slicerio

from DIANetLib.errors import InputError, OutputError
from DIANetLib.formats.image import from_sitk, write_volume
from DIANetLib.formats.segmentation import read_segmentation, write_segmentation
from DIANetLib.structures import ANATOMICAL_STRUCTURE, Structure
from DIANetLib.volume import Geometry, Volume

GRID = Geometry((4, 5, 6), (1.0, 1.5, 2.0), (10.0, -20.0, 30.0), np.eye(3))


@pytest.fixture
def labels() -> Volume:
    return Volume(np.random.default_rng(0).integers(0, 3, GRID.shape).astype(np.uint8), GRID)


@pytest.fixture
def sided(two_structures) -> tuple[Structure, ...]:
    return (two_structures[0].on_side("left"), two_structures[1].on_side("right"))


def test_labels_and_structures_come_back(tmp_path, labels, sided):
    write_segmentation(tmp_path / "a.seg.nrrd", labels, sided, source_name="head")
    again, structures = read_segmentation(tmp_path / "a.seg.nrrd")
    assert structures == sided
    np.testing.assert_array_equal(again.array, labels.array)
    assert again.array.dtype == np.uint8
    assert again.geometry.same_grid(GRID, tolerance=1e-6)
    assert again.name == "a"
    assert [p.name for p in tmp_path.iterdir()] == ["a.seg.nrrd"]


@pytest.mark.parametrize("seed", range(10))
def test_oblique_grids_come_back_to_a_millionth_of_a_mm(tmp_path, oblique_geometry, two_structures, seed):
    geometry = oblique_geometry(seed)
    array = np.random.default_rng(seed).integers(0, 3, geometry.shape)
    write_segmentation(tmp_path / "a.seg.nrrd", Volume(array, geometry), two_structures, source_name="x")
    again, _ = read_segmentation(tmp_path / "a.seg.nrrd")
    assert again.geometry.same_grid(geometry, tolerance=1e-6)
    np.testing.assert_array_equal(again.array, array)


def test_slicerio_reads_names_colours_values_and_terminology(tmp_path, labels, sided):
    write_segmentation(tmp_path / "a.seg.nrrd", labels, sided, source_name="head")
    read = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(read["voxels"], labels.array.T)
    first, second = read["segments"]
    assert (first["id"], first["name"], first["labelValue"]) == (
        "anterior_left",
        "Hippocampus anterior left",
        1,
    )
    assert (second["name"], second["labelValue"], second["layer"]) == ("Hippocampus posterior right", 2, 0)
    np.testing.assert_allclose(first["color"], [1.0, 128 / 255, 0.0], atol=1e-6)
    assert first["terminology"]["category"] == ["SCT", "123037004", "Anatomical Structure"]
    assert first["terminology"]["type"] == ["SCT", "5366008", "Hippocampus"]
    assert first["terminology"]["typeModifier"] == ["SCT", "7771000", "Left"]
    assert first["extent"] == [0, 3, 0, 4, 0, 5]


def test_pynrrd_reads_the_header_that_slicer_expects(tmp_path, labels, sided):
    write_segmentation(tmp_path / "a.seg.nrrd", labels, sided, source_name="head of\na person")
    voxels, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(voxels, labels.array.T)
    assert header["space"] == "left-posterior-superior"
    assert header["type"] in ("unsigned char", "uint8")
    assert header["encoding"] == "gzip"
    np.testing.assert_allclose(header["space directions"], (GRID.direction * GRID.spacing).T)
    np.testing.assert_allclose(header["space origin"], GRID.origin)
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert header["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert header["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    assert header["Segment1_LabelValue"] == "2"
    assert header["Segment1_Layer"] == "0"
    assert header["Segment0_Extent"] == "0 3 0 4 0 5"
    assert header["Segment0_Tags"] == f"TerminologyEntry:{sided[0].terminology_entry}|"
    assert header["DIANet_Source"] == "head of a person"


def test_the_reference_geometry_is_the_grid_in_ras(tmp_path, labels, sided):
    write_segmentation(tmp_path / "a.seg.nrrd", labels, sided, source_name="head")
    parameters = nrrd.read_header(str(tmp_path / "a.seg.nrrd"))["Segmentation_ConversionParameters"]
    name, numbers, _ = parameters.removesuffix("&").split("|")
    assert name == "Reference image geometry"
    values = [float(v) for v in numbers.removesuffix(";").split(";")]
    np.testing.assert_allclose(
        np.reshape(values[:16], (4, 4)), [[-1, 0, 0, -10], [0, -1.5, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]]
    )
    assert values[16:] == [0, 3, 0, 4, 0, 5]


def test_a_structure_that_does_not_occur_is_an_empty_segment(tmp_path, labels, two_structures):
    nothing = labels.with_array(np.zeros_like(labels.array))
    write_segmentation(tmp_path / "a.seg.nrrd", nothing, two_structures, source_name="head")
    again, structures = read_segmentation(tmp_path / "a.seg.nrrd")
    assert structures == two_structures
    assert not again.array.any()


def test_values_beyond_a_byte_are_kept(tmp_path, two_structures):
    large = Structure(300, "c", "C", (1, 2, 3), ANATOMICAL_STRUCTURE, two_structures[0].type)
    labels = Volume(np.full(GRID.shape, 300), GRID)
    write_segmentation(tmp_path / "a.seg.nrrd", labels, [large], source_name="x")
    again, structures = read_segmentation(tmp_path / "a.seg.nrrd")
    assert again.array.dtype == np.uint16
    assert structures == (large,)


def test_every_colour_survives_its_text(tmp_path, labels, two_structures):
    base = two_structures[0]
    greys = [Structure(n, f"s{n}", f"S{n}", (n, 255 - n, n), base.category, base.type) for n in range(1, 256)]
    write_segmentation(tmp_path / "a.seg.nrrd", labels, greys, source_name="x")
    assert read_segmentation(tmp_path / "a.seg.nrrd")[1] == tuple(greys)


def write_layers(path, layers: np.ndarray, fields: dict[str, str]) -> None:
    """Write (k, j, i, layer) as Slicer writes segments that may overlap."""
    image = sitk.GetImageFromArray(layers.astype(np.uint8), isVector=True)
    for key, value in fields.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path))


def test_layers_are_merged_and_a_shared_value_is_renumbered(tmp_path):
    layers = np.zeros((2, 2, 2, 2))
    layers[0, 0, 0, 0] = 1
    layers[1, 1, 1, 1] = 1
    fields = {
        "Segment0_ID": "Segment_1",
        "Segment0_Layer": "0",
        "Segment0_LabelValue": "1",
        "Segment0_Name": "A|b",
    }
    fields |= {"Segment1_ID": "segment-1", "Segment1_Layer": "1", "Segment1_LabelValue": "1"}
    write_layers(tmp_path / "a.seg.nrrd", layers, fields)
    labels, (first, second) = read_segmentation(tmp_path / "a.seg.nrrd")
    assert (first.key, first.value, first.name) == ("segment_1", 1, "A b")
    assert (second.key, second.value, second.name) == ("segment_1_2", 2, "segment_1_2")
    assert first.color == (128, 128, 128)
    assert first.type.meaning == "Tissue"
    assert labels.array[0, 0, 0] == 1
    assert labels.array[1, 1, 1] == 2
    assert np.count_nonzero(labels.array) == 2


def test_overlapping_segments_are_refused(tmp_path):
    fields = {"Segment0_ID": "a", "Segment0_Layer": "0", "Segment1_ID": "b", "Segment1_Layer": "1"}
    write_layers(tmp_path / "a.seg.nrrd", np.ones((2, 2, 2, 2)), fields)
    with pytest.raises(InputError, match=r"Segments of .* overlap, expected each voxel to belong to one"):
        read_segmentation(tmp_path / "a.seg.nrrd")


def test_a_layer_that_is_not_there_is_refused(tmp_path):
    write_layers(tmp_path / "a.seg.nrrd", np.ones((2, 2, 2, 2)), {"Segment0_ID": "a", "Segment0_Layer": "7"})
    with pytest.raises(InputError, match="names layer 7, but has 2"):
        read_segmentation(tmp_path / "a.seg.nrrd")


def test_a_file_without_segments_is_refused(tmp_path, labels):
    write_volume(labels, tmp_path / "a.nrrd")
    with pytest.raises(InputError, match=r"has no segments\. Expected a segmentation saved by 3D Slicer"):
        read_segmentation(tmp_path / "a.nrrd")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="There is no file"):
        read_segmentation(tmp_path / "no.seg.nrrd")


def test_a_value_without_a_structure_is_refused(tmp_path, labels, two_structures):
    with pytest.raises(OutputError, match=r"has values \[2\] that none of the structures has"):
        write_segmentation(tmp_path / "a.seg.nrrd", labels, two_structures[:1], source_name="x")


def test_another_ending_is_refused(tmp_path, labels, two_structures):
    with pytest.raises(OutputError, match=r"expected a name that ends in \.seg\.nrrd"):
        write_segmentation(tmp_path / "a.nrrd", labels, two_structures, source_name="x")


def test_other_itk_programs_see_the_labelmap(tmp_path, labels, two_structures):
    write_segmentation(tmp_path / "a.seg.nrrd", labels, two_structures, source_name="x")
    image = from_sitk(sitk.ReadImage(str(tmp_path / "a.seg.nrrd")))
    np.testing.assert_array_equal(image.array, labels.array)
