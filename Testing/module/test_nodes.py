# SPDX-License-Identifier: Apache-2.0
"""Volume nodes and regions of interest on real MRML: geometry must come through digit by digit."""

from __future__ import annotations

import numpy as np
import pytest
from DIANetGui.Modalities import guessModality
from DIANetGui.Nodes import boxFromRoi, geometryFromNode, nodeFromVolume, volumeFromNode
from scipy import ndimage

from DIANetLib.errors import InputError
from DIANetLib.volume import Geometry, Volume
from DIANetLib.worker.protocol import ModalityInfo
from Testing.conftest import make_geometry
from Testing.module.bootstrap import add_transform, add_warp, geometry, rotation

LPS = np.array([-1.0, -1.0, 1.0])


def volume_on(grid: Geometry, dtype=np.int16) -> Volume:
    rng = np.random.default_rng(1)
    return Volume(rng.integers(0, 100, grid.shape).astype(dtype), grid, name="head")


def world_of(node, ijk) -> np.ndarray:
    """Where MRML itself says a voxel of a node lies in the world, LPS mm."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    ras = matrix.MultiplyPoint((*ijk, 1.0))[:3]
    if node.GetParentTransformNode() is not None:
        general = vtk.vtkGeneralTransform()
        node.GetParentTransformNode().GetTransformToWorld(general)
        ras = general.TransformPoint(*ras)
    return np.array(ras) * LPS


# --- volumes ---


@pytest.mark.parametrize("seed", range(6))
def test_an_oblique_anisotropic_volume_of_any_handedness_goes_in_and_out_exactly(environment, seed):
    volume = volume_on(make_geometry(seed))
    node = nodeFromVolume(environment, volume, "head")
    back = volumeFromNode(node, "T1")
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.geometry == volume.geometry
    assert (back.name, back.modality) == ("head", "T1")
    ends = (0, 0, 0), tuple(n - 1 for n in volume.geometry.size)
    for ijk in ends:
        np.testing.assert_allclose(
            world_of(node, ijk), volume.geometry.index_to_world(ijk), rtol=0, atol=1e-9
        )


def test_left_and_right_handed_directions_both_come_through(environment):
    seen = set()
    for signs in ((1, 1, 1), (-1, 1, 1), (-1, -1, 1), (-1, -1, -1)):
        volume = volume_on(geometry(direction=np.diag(np.array(signs, float))))
        back = volumeFromNode(nodeFromVolume(environment, volume, "head"))
        assert back.geometry == volume.geometry
        seen.add(np.linalg.det(back.geometry.direction) > 0)
    assert seen == {True, False}


@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8", ">i2", ">f4"], ids=lambda text: text
)
def test_every_voxel_type_comes_through(environment, dtype):
    volume = volume_on(geometry(), np.dtype(dtype))
    back = volumeFromNode(nodeFromVolume(environment, volume, "head"))
    assert back.array.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(back.array, volume.array)


@pytest.mark.parametrize(("given", "kept"), [("?", "u1"), ("f2", "f4"), ("i8", "i4"), ("u8", "u4")])
def test_voxel_types_that_mrml_lacks_become_the_next_one(environment, given, kept):
    volume = volume_on(geometry(), np.dtype(given))
    back = volumeFromNode(nodeFromVolume(environment, volume, "head"))
    assert back.array.dtype == np.dtype(kept)
    np.testing.assert_array_equal(back.array, volume.array)


def test_whole_numbers_beyond_32_bits_are_refused(environment):
    grid = geometry()
    with pytest.raises(InputError, match="32-bit"):
        nodeFromVolume(environment, Volume(np.full(grid.shape, 2**40), grid), "head")


@pytest.mark.parametrize(
    "vtk_type",
    ["CHAR", "SIGNED_CHAR", "UNSIGNED_CHAR", "SHORT", "UNSIGNED_SHORT", "INT", "UNSIGNED_INT", "LONG",
     "UNSIGNED_LONG", "LONG_LONG", "UNSIGNED_LONG_LONG", "FLOAT", "DOUBLE"],
)  # fmt: skip
def test_every_vtk_scalar_type_is_read(environment, vtk_type):
    import vtk

    image = vtk.vtkImageData()
    image.SetDimensions(4, 3, 2)
    image.AllocateScalars(getattr(vtk, f"VTK_{vtk_type}"), 1)
    for n in range(24):
        image.SetScalarComponentFromDouble(n % 4, n // 4 % 3, n // 12, 0, n)
    node = environment.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "head")
    node.SetAndObserveImageData(image)
    np.testing.assert_array_equal(volumeFromNode(node).array.ravel(), np.arange(24))


def test_the_voxels_are_a_read_only_view_and_the_nodes_copy_is_its_own(environment):
    volume = volume_on(geometry(), np.float32)
    node = nodeFromVolume(environment, volume, "head")
    volume.array[:] = -1
    back = volumeFromNode(node)
    assert back.array.min() >= 0
    with pytest.raises(ValueError, match="read-only"):
        back.array[0, 0, 0] = 1


def test_a_read_only_memory_map_becomes_a_node(environment, tmp_path):
    grid = geometry()
    file = tmp_path / "map.raw"
    np.arange(np.prod(grid.shape), dtype="<f4").tofile(file)
    mapped = np.memmap(file, "<f4", "r", shape=grid.shape)
    node = nodeFromVolume(environment, Volume(mapped, grid), "map")
    np.testing.assert_array_equal(volumeFromNode(node).array, mapped)


def test_a_labelmap_is_read(environment):
    node = environment.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    made = nodeFromVolume(environment, volume_on(geometry(), np.uint8), "made")
    node.CopyContent(made)
    assert volumeFromNode(node).array.dtype == np.uint8


def test_an_extent_that_does_not_start_at_zero_is_counted(environment):
    node = nodeFromVolume(environment, volume_on(geometry()), "head")
    node.GetImageData().SetExtent(2, 13, 1, 10, 3, 10)
    np.testing.assert_allclose(volumeFromNode(node).geometry.origin, world_of(node, (2, 1, 3)), atol=1e-9)


def test_names_are_unique(environment):
    nodes = [nodeFromVolume(environment, volume_on(geometry()), "head") for _ in range(3)]
    assert [node.GetName() for node in nodes] == ["head", "head 2", "head 3"]


def test_a_node_that_is_made_belongs_to_the_scene_alone(environment):
    node = nodeFromVolume(environment, volume_on(geometry()), "head")
    held = []
    node.AddObserver("DeleteEvent", lambda *_: held.append("gone"))
    environment.scene.RemoveNode(node)
    del node
    assert held


def test_of_a_sequence_the_frame_that_is_shown_is_read(environment):
    import slicer

    scene, logic = environment.scene, slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLApplicationLogic(environment.applicationLogic)
    logic.SetMRMLScene(scene)
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "frames")
    grid = geometry()
    for index in range(3):
        frame = nodeFromVolume(environment, Volume(np.full(grid.shape, index, np.int16), grid), "frame")
        sequence.SetDataNodeAtValue(frame, str(index))
        scene.RemoveNode(frame)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    for index in (0, 2):
        browser.SetSelectedItemNumber(index)
        logic.UpdateProxyNodesFromSequences(browser)
        assert volumeFromNode(browser.GetProxyNode(sequence)).array.max() == index


# --- transforms ---


def test_a_linear_parent_transform_is_hardened_into_the_volume_and_the_node_stays_as_it_is(environment):
    node = nodeFromVolume(environment, volume_on(make_geometry(3)), "head")
    outer = np.eye(4)
    outer[:3, 3] = 1, 2, 3
    inner = np.eye(4)
    inner[:3, :3], inner[:3, 3] = rotation(20, -35, 50), (12.5, -3, 40)
    parent = add_transform(environment, inner, add_transform(environment, outer))
    node.SetAndObserveTransformNodeID(parent.GetID())
    before = node.GetMTime(), node.GetImageData().GetMTime()
    volume = volumeFromNode(node)
    for ijk in ((0, 0, 0), (1, 0, 0), (0, 1, 0), tuple(n - 1 for n in volume.geometry.size)):
        np.testing.assert_allclose(
            volume.geometry.index_to_world(ijk), world_of(node, ijk), rtol=0, atol=1e-9
        )
    assert (node.GetMTime(), node.GetImageData().GetMTime()) == before
    assert node.GetParentTransformNode() is parent
    assert geometryFromNode(node) == volume.geometry


def test_a_mirroring_and_scaling_transform_needs_no_resampling(environment):
    volume = volume_on(geometry(direction=rotation(0, 0, 30)))
    node = nodeFromVolume(environment, volume, "head")
    node.SetAndObserveTransformNodeID(add_transform(environment, np.diag([-2.0, 2.0, 2.0, 1.0])).GetID())
    back = volumeFromNode(node)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.geometry.spacing, np.array(volume.geometry.spacing) * 2)
    assert np.linalg.det(back.geometry.direction) < 0


def ball_at(grid: Geometry, center, radius=9.0) -> Volume:
    k, j, i = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    points = grid.index_to_world(np.stack([i, j, k], axis=-1))
    distance = np.linalg.norm(points - np.asarray(center), axis=-1)
    return Volume((100 / (1 + np.exp((distance - radius) / 3))).astype(np.float32), grid, name="ball")


def center_of(volume: Volume) -> np.ndarray:
    at = np.argwhere(volume.array > volume.array.max() / 2)[:, ::-1]
    return volume.geometry.index_to_world(at).mean(axis=0)


BALL_GRID = geometry((48, 44, 40), (1.5, 1.6, 1.7), (-36.0, -35.0, -34.0), rotation(5, 10, -8))


def test_a_sheared_volume_is_resampled_onto_a_rectangular_grid_and_lies_where_it_is_seen(environment):
    node = nodeFromVolume(environment, ball_at(BALL_GRID, (4, -6, 8)), "head")
    shear = np.eye(4)
    shear[0, 2], shear[:3, 3] = 0.4, (5, -7, 9)
    node.SetAndObserveTransformNodeID(add_transform(environment, shear).GetID())
    volume = volumeFromNode(node)
    expected = (shear @ [-4, 6, 8, 1])[:3] * LPS
    np.testing.assert_allclose(center_of(volume), expected, atol=0.3)
    corners = np.array([world_of(node, ijk) for ijk in ((0, 0, 0), (47, 43, 39), (47, 0, 39), (0, 43, 0))])
    inside = volume.geometry.world_to_index(corners)
    assert (inside >= -0.5).all()
    assert (inside <= np.array(volume.geometry.size) - 0.5).all()
    assert volume.array.dtype == np.float32
    assert geometryFromNode(node) == volume.geometry


def test_a_bent_volume_is_resampled_where_it_is_seen_and_the_node_stays_as_it_is(environment):
    ball = ball_at(BALL_GRID, (0, 0, 0))
    node = nodeFromVolume(environment, ball, "head")
    node.SetAndObserveTransformNodeID(add_warp(environment, 6.0).GetID())
    before = node.GetMTime(), node.GetImageData().GetMTime()
    volume = volumeFromNode(node)
    for ijk in ((23, 21, 19), (20, 24, 22), (26, 18, 17), (24, 22, 25)):
        there = world_of(node, ijk)
        at = volume.geometry.world_to_index(there)[::-1]
        found = ndimage.map_coordinates(volume.array, at[:, None], order=1)[0]
        assert found == pytest.approx(ball.array[tuple(reversed(ijk))], abs=3)
    assert center_of(volume)[0] < -4  # pushed along R, which is -x in LPS
    assert (node.GetMTime(), node.GetImageData().GetMTime()) == before
    assert volume.array.max() > 90


def test_resampling_keeps_the_values_of_a_labelmap(environment):
    node = environment.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    labels = (ball_at(BALL_GRID, (0, 0, 0)).array > 50).astype(np.uint8) * 7
    node.CopyContent(nodeFromVolume(environment, Volume(labels, BALL_GRID), "made"))
    node.SetAndObserveTransformNodeID(add_warp(environment).GetID())
    assert set(np.unique(volumeFromNode(node).array)) == {0, 7}


# --- what cannot be used ---


def test_a_volume_without_image_data_is_refused(environment):
    node = environment.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
    with pytest.raises(InputError, match="The volume nothing has no image data"):
        volumeFromNode(node)


def test_an_empty_image_is_refused(environment):
    import vtk

    node = environment.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    node.SetAndObserveImageData(vtk.vtkImageData())
    with pytest.raises(InputError, match="has no image data"):
        volumeFromNode(node)


def test_a_colour_image_is_refused(environment):
    import vtk

    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 1)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    node = environment.scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    node.SetAndObserveImageData(image)
    with pytest.raises(
        InputError, match=r"photo has 3 values in each voxel, expected one\. .*Vector to Scalar"
    ):
        volumeFromNode(node)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda node: node.SetSpacing(1.0, 0.0, 1.0),
        lambda node: node.SetOrigin(float("nan"), 0.0, 0.0),
        lambda node: node.SetIJKToRASDirections(1, 0, 0, 0, 1, 0, 0, 1, 0),
    ],
    ids=["spacing 0", "origin nan", "singular"],
)
def test_a_geometry_that_makes_no_sense_is_refused(environment, spoil):
    node = nodeFromVolume(environment, volume_on(geometry()), "odd")
    spoil(node)
    with pytest.raises(InputError, match="The volume odd cannot be used"):
        volumeFromNode(node)


@pytest.mark.parametrize("diagonal", [(1, 1, 0, 1), (1, 1e-9, 1, 1), (float("inf"), 1, 1, 1)])
def test_a_transform_that_makes_no_sense_is_refused(environment, diagonal):
    node = nodeFromVolume(environment, volume_on(geometry()), "odd")
    node.SetAndObserveTransformNodeID(add_transform(environment, np.diag(np.array(diagonal, float))).GetID())
    with pytest.raises(InputError, match=r"The volume odd cannot be used: .*transform"):
        volumeFromNode(node)


# --- regions of interest ---


def add_roi(environment, center=(10, -20, 30), size=(20, 30, 40)):
    node = environment.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "roi")
    node.SetCenter(*center)
    node.SetSize(*size)
    return node


def test_a_region_of_interest_becomes_a_box_in_lps(environment):
    box = boxFromRoi(add_roi(environment))
    np.testing.assert_allclose((box.lo, box.hi), ((-20, 5, 10), (0, 35, 50)), atol=1e-9)


def test_a_turned_and_transformed_region_of_interest_is_held_by_its_box(environment):
    node = add_roi(environment, center=(0, 0, 0), size=(20, 20, 10))
    turn = np.eye(4)
    turn[:3, :3], turn[:3, 3] = rotation(0, 0, 45), (100, 0, 0)
    node.SetAndObserveTransformNodeID(add_transform(environment, turn).GetID())
    half = 10 * np.sqrt(2)
    box = boxFromRoi(node)
    np.testing.assert_allclose(
        (box.lo, box.hi), ((-100 - half, -half, -5), (-100 + half, half, 5)), atol=1e-6
    )


def test_a_region_of_interest_turned_by_its_own_matrix_is_held_by_its_box(environment):
    import vtk

    node = add_roi(environment, center=(0, 0, 0), size=(20, 20, 10))
    matrix = vtk.vtkMatrix4x4()
    turn = np.eye(4)
    turn[:3, :3], turn[:3, 3] = rotation(0, 0, 45), (0, 50, 0)
    matrix.DeepCopy(turn.ravel().tolist())
    node.SetAndObserveObjectToNodeMatrix(matrix)
    half = 10 * np.sqrt(2)
    box = boxFromRoi(node)
    np.testing.assert_allclose((box.lo, box.hi), ((-half, -50 - half, -5), (half, -50 + half, 5)), atol=1e-6)


def test_a_bent_region_of_interest_is_held_by_its_box(environment):
    node = add_roi(environment, center=(0, 0, 0), size=(20, 20, 20))
    node.SetAndObserveTransformNodeID(add_warp(environment, 6.0).GetID())
    box = boxFromRoi(node)
    assert box.lo[0] < -13  # R is -x in LPS; the push is about 5 mm at the face


def test_a_region_of_interest_around_points_becomes_a_box(environment):
    import slicer

    node = environment.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "roi")
    node.SetROIType(slicer.vtkMRMLMarkupsROINode.ROITypeBoundingBox)
    for point in ((0, 0, 0), (10, 20, 30), (5, 5, 5)):
        node.AddControlPoint(*point)
    box = boxFromRoi(node)
    np.testing.assert_allclose((box.lo, box.hi), ((-10, -20, 0), (0, 0, 30)), atol=1e-6)


def test_a_region_of_interest_that_is_not_placed_yet_is_none(environment):
    node = environment.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "roi")
    assert boxFromRoi(node) is None


# --- modalities ---

FOUR = tuple(ModalityInfo(name) for name in ("FLAIR", "T1", "T1c", "T2"))


def named(environment, *names):
    return [nodeFromVolume(environment, volume_on(geometry((4, 4, 4))), name) for name in names]


def chosen(nodes, modalities, **options):
    return {name: node.GetName() for name, node in guessModality(nodes, modalities, **options).items()}


@pytest.mark.parametrize(
    "names",
    [
        ("BraTS_t1", "BraTS_t1ce", "BraTS_t2", "BraTS_flair"),
        ("5: T1 MPRAGE", "9: T1 MPRAGE post GD", "3: T2 TSE", "4: T2 FLAIR"),
        ("sub-01_T1w", "sub-01_ce-GADOLINIUM_T1w gd", "sub-01_T2w", "sub-01_FLAIR"),
        ("t1_tse_tra", "T1+C", "t2-weighted", "flair.nii"),
        ("a-t1n", "a-t1c", "a-t2w", "a-t2f flair"),
    ],
)
def test_modalities_are_told_apart_by_whole_words(environment, names):
    nodes = named(environment, *names)
    expected = dict(zip(("T1", "T1c", "T2", "FLAIR"), names, strict=True))
    assert chosen(nodes, FOUR) == expected
    assert chosen(nodes[::-1], FOUR) == expected


def test_parts_of_words_say_nothing(environment):
    assert chosen(named(environment, "fat1ma", "inflairated", "attract", "st2"), FOUR) == {}


def test_a_volume_is_not_chosen_twice(environment):
    assert chosen(named(environment, "head T1"), (ModalityInfo("T1"), ModalityInfo("T1 again"))) == {
        "T1": "head T1"
    }


def test_a_single_modality_takes_the_only_volume_or_the_active_one(environment):
    one = (ModalityInfo("T1"),)
    first, second = named(environment, "MRHead", "patient")
    assert chosen([first], one) == {"T1": "MRHead"}
    assert chosen([first, second], one) == {}
    assert chosen([first, second], one, active=second) == {"T1": "patient"}


def test_a_name_that_says_another_modality_counts_more_than_being_active(environment):
    ct, t1 = named(environment, "CT chest", "head T1")
    assert chosen([ct, t1], (ModalityInfo("T1"),), active=ct) == {"T1": "head T1"}
    assert chosen([ct], (ModalityInfo("T1"),)) == {}
    assert chosen([ct, t1], (ModalityInfo("CT"),)) == {"CT": "CT chest"}


def test_the_dicom_modality_tells_a_ct(environment):
    from DIANetGui.Scene import hierarchy, itemOf

    (node,) = named(environment, "6: Thorax 1.0")
    hierarchy(environment.scene).SetItemAttribute(itemOf(node), "DICOM.Modality", "CT")
    assert chosen([node], (ModalityInfo("CT"), ModalityInfo("T1"))) == {"CT": "6: Thorax 1.0"}


def test_an_alias_of_a_modality_counts(environment):
    nodes = named(environment, "x mprage", "y t2w")
    wanted = (ModalityInfo("anatomical", aliases=("T1",)), ModalityInfo("fluid", aliases=("T2w",)))
    assert chosen(nodes, wanted) == {"anatomical": "x mprage", "fluid": "y t2w"}


def test_layers_and_labelmaps_are_no_inputs(environment):
    (layer,) = named(environment, "T1 layer")
    layer.SetAttribute("DIANet.Layer", "total")
    labels = environment.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "T1 labels")
    assert chosen([layer, labels], (ModalityInfo("T1"),)) == {}
