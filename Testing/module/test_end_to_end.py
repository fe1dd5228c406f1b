# SPDX-License-Identifier: Apache-2.0
"""From a head in a volume node to segmentation, layers and views: the real worker, the shipped model."""

from __future__ import annotations

import numpy as np
import pytest
from DIANetGui.LayerKeys import LayerKey
from DIANetGui.Nodes import nodeFromVolume, volumeFromNode

from DIANetLib.errors import DependencyError
from DIANetLib.resample import resample
from DIANetLib.volume import Geometry, Volume
from Testing.module.bootstrap import add_transform, make_environment, rotation

SIDES = {"left": 1, "right": -1}  # sign of x in LPS


@pytest.fixture(scope="module")
def client():
    """One warm worker for all tests of this file."""
    from DIANetLib.worker.client import LocalWorker

    made = LocalWorker()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def head() -> Volume:
    """The MNI152 head at 1 mm."""
    from DIANetLib.demo import mni_head
    from DIANetLib.formats.image import read_volume

    try:
        return read_volume(mni_head())
    except DependencyError as error:
        pytest.skip(str(error))


def segment(environment, client, node, **options):
    from DIANetGui.Logic import Logic

    return Logic(environment, client).segmentNode(node, "hippocampus", device="cpu", samples=2, **options)


def resampled(volume: Volume, grid: Geometry) -> Volume:
    """The volume on another grid, linearly."""
    return Volume(resample(volume.array, volume.geometry, grid), grid, name=volume.name)


def found(result, grid: Geometry) -> np.ndarray:
    """Where a result has structures, on another grid."""
    labels = result.labels()
    return resampled(labels.with_array((labels.array > 0).astype(np.float32)), grid).array > 0.5


def around(volume: Volume, size, spacing, direction) -> Geometry:
    """A grid about the middle of a volume."""
    middle = volume.geometry.bounds_world().mean(axis=0)
    spacing, size = np.array(spacing, float), np.array(size)
    origin = middle - direction @ (spacing * (size - 1) / 2)
    return Geometry(tuple(size.tolist()), tuple(spacing.tolist()), tuple(origin.tolist()), direction)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def assert_complete(result, node) -> None:
    """A segmentation and the layers of the whole image, exactly on the grid of the input."""
    grid = volumeFromNode(node).geometry
    record = result.record
    assert len(record.structures) == 4
    assert {"total", "aleatoric", "epistemic", "error"} <= set(record.layers)
    assert result.labels().geometry.same_grid(grid, 1e-6)
    for text in record.layers:
        layer = volumeFromNode(result.layerNode(LayerKey.parse(text)))
        assert layer.geometry.same_grid(grid, 1e-6), text
        assert layer.array.dtype == np.float32
        assert layer.array.min() >= 0
    assert volumeFromNode(result.layerNode(LayerKey("total"))).array.max() > 0.3


def assert_sides(result, middle_x: float) -> None:
    """Structures called left lie on the patient's left, and have sizes that hippocampi have."""
    labels = result.labels()
    for structure in result.record.structures:
        at = np.argwhere(labels.array == structure.value)[:, ::-1]
        side = structure.key.rpartition("_")[2]
        assert SIDES[side] * (labels.geometry.index_to_world(at)[:, 0].mean() - middle_x) > 10, structure.key
        assert 0.8 < len(at) * labels.geometry.voxel_volume_ml < 4.5, structure.key
        summary = next(s for s in result.record.summaries if s.key == structure.key)
        assert summary.volume_ml == pytest.approx(len(at) * labels.geometry.voxel_volume_ml, rel=1e-3)


@pytest.fixture(scope="module")
def plain(client, head):
    """The result of the head as it is; kept with its environment."""
    environment = make_environment()
    node = nodeFromVolume(environment, head, "MNI head")
    return segment(environment, client, node)


def test_a_head_becomes_a_segmentation_with_layers(plain):
    (node,) = plain.inputNodes()
    assert_complete(plain, node)
    assert_sides(plain, 0.0)
    assert plain.record.device == "cpu"
    assert plain.regions()


def test_an_oblique_head_gives_the_same_structures_in_the_same_places(environment, client, head, plain):
    volume = resampled(head, around(head, (120, 132, 100), (1.25, 1.3, 1.3), rotation(18, -6, 10)))
    node = nodeFromVolume(environment, volume, "oblique")
    result = segment(environment, client, node)
    assert_complete(result, node)
    assert_sides(result, 0.0)
    assert dice(found(result, head.geometry), plain.labels().array > 0) > 0.85


def test_an_anisotropic_head_gives_the_same_structures_in_the_same_places(environment, client, head, plain):
    volume = resampled(head, around(head, (197, 233, 76), (1, 1, 2.5), np.diag((-1.0, -1.0, 1.0))))
    node = nodeFromVolume(environment, volume, "thick slices")
    result = segment(environment, client, node)
    assert_complete(result, node)
    assert_sides(result, 0.0)
    assert dice(found(result, head.geometry), plain.labels().array > 0) > 0.75


def test_a_head_under_a_transform_has_its_result_where_it_is_seen(environment, client, head, plain):
    node = nodeFromVolume(environment, head, "moved")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation(4, 0, -6), (35, -20, 60)
    transform = add_transform(environment, matrix)
    node.SetAndObserveTransformNodeID(transform.GetID())
    before = node.GetMTime(), node.GetImageData().GetMTime()
    result = segment(environment, client, node)
    assert (node.GetMTime(), node.GetImageData().GetMTime()) == before
    assert node.GetParentTransformNode() is transform
    assert_complete(result, node)
    assert_sides(result, -35.0)
    # The same voxels: what was moved is the image, and the result with it.
    assert dice(result.labels().array > 0, plain.labels().array > 0) > 0.9


def test_a_place_of_a_head_is_corrected_and_becomes_a_package(client, head, tmp_path):
    import slicer
    from DIANetGui.Corrections import writePackage
    from DIANetGui.Editing import configure
    from DIANetGui.Logic import Logic

    from DIANetLib.acwi.corrections import check_image, read_correction
    from Testing.module.fakes.segment_editor import SegmentEditorWidget

    environment = make_environment()
    node = nodeFromVolume(environment, head, "MNI head")
    logic = Logic(environment, client)
    result = logic.segmentNode(node, "hippocampus", device="cpu", samples=2)
    logic.review.reviewer = "Ada"
    region = logic.regions()[0]
    editor = SegmentEditorWidget(environment)
    _result, edit = logic.review.beginEdit(region.rank, 0.3)
    configure(result, edit)
    editor.setActiveEffectByName("Paint")
    effect = editor.activeEffect()
    effect.saveStateForUndo()
    modifier = effect.defaultModifierLabelmap()
    modifier.GetPointData().GetScalars().Fill(1)
    effect.modifySelectedSegmentByLabelmap(modifier, slicer.vtkSlicerSegmentEditorLogic.ModificationModeAdd)
    outcome = logic.review.endEdit()

    assert outcome.inside > 0
    assert outcome.outside == 0
    voxel_mm3 = head.geometry.voxel_volume_ml * 1000
    assert edit.editable.sum() * voxel_mm3 < 30 * region.volume_mm3  # 2 mm around a thin place, no more
    package = read_correction(writePackage(result, tmp_path, "Ada", copyImages=True).directory)
    assert package.changed.sum() == outcome.inside
    assert package.regions[0].state == "corrected"
    check_image(package, head, "T1")
    editor.undo()
    assert np.array_equal(result.labels().array, package.before.array)
