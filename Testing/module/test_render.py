# SPDX-License-Identifier: Apache-2.0
"""What the views show, drawn by Slicer's own displayable managers, pixel by pixel, on made-up data."""

from __future__ import annotations

import numpy as np
import pytest
from DIANetGui.Editing import beginEdit, endEdit
from DIANetGui.LayerKeys import NUMBERED, SCALES, LayerKey
from DIANetGui.Layers import LayerStyle, jumpTo, outlineRegion, showLayers
from DIANetGui.Nodes import nodeFromVolume
from DIANetGui.Results import Result
from scipy import ndimage

from DIANetLib.acwi.review import Region
from DIANetLib.formats.colormap import color_table
from DIANetLib.volume import Volume
from DIANetLib.worker.protocol import BoxLPS
from Testing.module.bootstrap import STRUCTURES, geometry, make_environment, rotation, segmented
from Testing.module.views import SliceView, ThreeDView

# Oblique and anisotropic; the world's origin is in its middle.
_TURN = rotation(12, -8, 15)
_SIZE, _SPACING = np.array((60, 56, 48)), np.array((1.8, 2.0, 2.3))
GRID = geometry(
    tuple(_SIZE.tolist()), tuple(_SPACING.tolist()), tuple(_TURN @ (-_SPACING * (_SIZE - 1) / 2)), _TURN
)
LEFT, RIGHT = np.array((22.0, 4.0, 3.0)), np.array((-22.0, -4.0, 3.0))  # LPS mm
RADIUS = 12.0
ORIENTATIONS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}


def points() -> np.ndarray:
    k, j, i = np.meshgrid(*(np.arange(n) for n in GRID.shape), indexing="ij")
    return GRID.index_to_world(np.stack([i, j, k], axis=-1))


def uncertainty_at(lps: np.ndarray) -> np.ndarray:
    """A shell around each ball, 0 to 1; on the left it goes higher than on the right."""
    shells = [height * np.exp(-(((np.linalg.norm(lps - c, axis=-1) - RADIUS) / 3.0) ** 2))
              for c, height in ((LEFT, 1.0), (RIGHT, 0.5))]  # fmt: skip
    return np.maximum(*shells)


class Scene:
    """A head with two balls, its result and the views."""

    def __init__(self) -> None:
        self.environment = make_environment()
        lps = points()
        self.labels = np.zeros(GRID.shape, np.uint8)
        for value, center in ((1, LEFT), (2, RIGHT)):
            self.labels[np.linalg.norm(lps - center, axis=-1) < RADIUS] = value
        image = np.where(self.labels == 1, 160, np.where(self.labels == 2, 90, 40)).astype(np.float32)
        self.head = nodeFromVolume(self.environment, Volume(image, GRID), "head")
        self.head.CreateDefaultDisplayNodes()
        self.head.GetDisplayNode().SetAutoWindowLevel(False)
        self.head.GetDisplayNode().SetWindowLevelMinMax(0, 255)
        # Interpolated, the picture would not be what the test computes.
        self.head.GetDisplayNode().SetInterpolate(False)
        labels = Volume(self.labels, GRID)
        self.result = Result.create(self.environment, "run", [self.head], segmented(), labels)
        self.map = uncertainty_at(lps).astype(np.float32)
        self.views = {name: SliceView(self.environment, name, orientation, (240, 240))
                      for name, orientation in ORIENTATIONS.items()}  # fmt: skip
        for view in self.views.values():
            view.composite.SetBackgroundVolumeID(self.head.GetID())
            view.fit()
        jumpTo(self.environment, LEFT)

    def add(self, key: LayerKey) -> None:
        self.result.addLayer(key, Volume(self.map * np.float32(key.scale), GRID))

    def hide_segmentation(self) -> None:
        self.result.segmentationNode.GetDisplayNode().SetVisibility(False)


@pytest.fixture
def scene(offscreen):
    return Scene()


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.abs(before.astype(int) - after.astype(int)).max(axis=-1) > 3


def colored(picture: np.ndarray) -> np.ndarray:
    return np.ptp(picture.astype(int), axis=-1) > 12


def layer_keys():
    return [
        LayerKey(kind, "hippocampus_left" if kind in ("variance", "gradcam") else None)
        for kind in SCALES
        if kind not in NUMBERED  # whose numbers no threshold hides
    ]


# --- slices ---


@pytest.mark.parametrize("name", ["Red", "Green"])
def test_the_patients_left_is_on_the_right_of_the_screen(scene, name):
    scene.hide_segmentation()
    picture = scene.views[name].pixels()
    jumpTo(scene.environment, RIGHT)
    other = scene.views[name].pixels()
    bright = np.argwhere(picture[..., 0] > 140)
    dim = np.argwhere((other[..., 0] > 75) & (other[..., 0] < 105))
    assert len(bright) > 100
    assert len(dim) > 100
    assert bright[:, 1].min() > 120 > dim[:, 1].max()


def test_up_on_the_screen_is_anterior_or_superior(scene):
    lps = {name: view.grid_lps() for name, view in scene.views.items()}
    assert lps["Red"][0, 120, 1] < lps["Red"][-1, 120, 1]  # y grows to the back
    for name in ("Green", "Yellow"):
        assert lps[name][0, 120, 2] > lps[name][-1, 120, 2]


@pytest.mark.parametrize("key", layer_keys(), ids=lambda key: key.kind)
def test_a_layer_has_its_colours_where_it_is_above_the_threshold_and_only_there(scene, key):
    scene.add(key)
    scene.hide_segmentation()
    table = color_table(256).astype(float)
    for name, view in scene.views.items():
        plain = view.pixels()
        assert not colored(plain).any()
        showLayers(scene.environment, scene.result, [key], LayerStyle(0.6, 0.3, legend=False))
        picture = view.pixels()
        lps = view.grid_lps()
        index = GRID.world_to_index(lps.reshape(-1, 3)).T[::-1]
        value = ndimage.map_coordinates(scene.map, index, order=1, cval=0.0).reshape(picture.shape[:2])
        above = value >= 0.3
        assert above.sum() > 150, name
        # What lies within a pixel of the threshold may fall on either side.
        surely = ndimage.binary_erosion(above, iterations=2)
        surely_not = ndimage.binary_erosion(~above, iterations=2)
        assert changed(plain, picture)[surely].all(), name
        assert not changed(plain, picture)[surely_not].any(), name
        expected = 0.4 * plain + 0.6 * table[np.clip((value * 255).round(), 0, 255).astype(int)]
        off = np.abs(expected - picture)[surely]
        assert np.percentile(off, 95) < 12, name
        showLayers(scene.environment, scene.result, [])
        np.testing.assert_array_equal(view.pixels(), plain)


def test_equal_values_have_equal_colours_whatever_else_is_in_the_map(scene):
    key = LayerKey("total")
    scene.hide_segmentation()
    view = scene.views["Red"]
    pictures = []
    around = ndimage.maximum_filter(scene.map, 3)  # of the voxels that a pixel is interpolated from
    for greatest in (1.0, 0.6):
        scene.map = np.minimum(scene.map, greatest).astype(np.float32)
        scene.add(key)
        showLayers(scene.environment, scene.result, [key], LayerStyle(1.0, 0.1, legend=False))
        pictures.append(view.pixels())
    index = GRID.world_to_index(view.grid_lps().reshape(-1, 3)).T[::-1]
    value = ndimage.map_coordinates(around, index, order=0, cval=0.0).reshape(240, 240)
    same = (value > 0.15) & (value < 0.59)
    assert same.sum() > 1000
    assert not changed(*pictures)[same].any()
    assert changed(*pictures)[value > 0.8].any()


def test_opacity_and_threshold_act(scene):
    key = LayerKey("total")
    scene.add(key)
    scene.hide_segmentation()
    view = scene.views["Red"]
    areas = []
    for threshold in (0.1, 0.4, 0.8):
        showLayers(scene.environment, scene.result, [key], LayerStyle(0.6, threshold, legend=False))
        areas.append(colored(view.pixels()).sum())
    assert areas[0] > 1.3 * areas[1] > 1.3 * 1.2 * areas[2] > 0
    strengths = []
    for opacity in (0.2, 0.6, 1.0):
        showLayers(scene.environment, scene.result, [key], LayerStyle(opacity, 0.4, legend=False))
        strengths.append(np.ptp(view.pixels().astype(int), axis=-1).max())
    assert strengths[0] < strengths[1] < strengths[2]


def test_two_layers_are_seen_at_once(scene):
    view = scene.views["Red"]
    scene.hide_segmentation()
    first, second = LayerKey("total"), LayerKey("gradcam", "hippocampus_left")
    scene.add(first)
    scene.map = np.zeros_like(scene.map)
    scene.map[np.linalg.norm(points() - RIGHT, axis=-1) < 5] = 0.8
    scene.add(second)
    jumpTo(scene.environment, (0, 0, 3))
    showLayers(scene.environment, scene.result, [first], LayerStyle(0.7, 0.3, legend=False))
    one = view.pixels()
    showLayers(scene.environment, scene.result, [first, second], LayerStyle(0.7, 0.3, legend=False))
    two = view.pixels()
    there = changed(one, two)
    row, column = view.pixel_of(RIGHT)
    assert there[row, column]
    assert there[:, 120:].sum() == 0  # nothing of the second layer on the patient's left
    assert colored(two)[:, 120:].any()  # where the first one still is


def test_the_segmentation_is_filled_alone_and_an_outline_under_a_layer(scene):
    key = LayerKey("total")
    scene.map = np.zeros_like(scene.map)
    scene.add(key)
    view = scene.views["Red"]
    row, column = view.pixel_of(LEFT)
    showLayers(scene.environment, scene.result, [])
    filled = view.pixels()
    showLayers(scene.environment, scene.result, [key], LayerStyle(legend=False))
    outlined = view.pixels()
    assert colored(filled)[row, column]
    assert not colored(outlined)[row, column]
    color = np.array(STRUCTURES[0].color)
    near = np.abs(outlined.astype(int) - color).max(axis=-1) < 12
    lps = view.grid_lps()[near]
    assert len(lps) > 80
    distance = np.linalg.norm(lps - LEFT, axis=-1)
    assert np.abs(distance - RADIUS).max() < 4.5  # the outline follows voxels of about 2 mm


def test_a_region_is_outlined_in_every_view_that_cuts_it(scene):
    box = BoxLPS(tuple((LEFT - 8).tolist()), tuple(np.add(LEFT, (10, 6, 8)).tolist()))
    scene.hide_segmentation()
    plain = {name: view.pixels() for name, view in scene.views.items()}
    outlineRegion(scene.environment, scene.result, box)
    lo, hi = np.array(box.lo), np.array(box.hi)
    for name, view in scene.views.items():
        marked = changed(plain[name], view.pixels())
        assert marked.sum() > 40, name
        lps = view.grid_lps()
        away = np.maximum(lo - lps, lps - hi).max(axis=-1)  # below 0 inside
        mm = np.linalg.norm(lps[0, 1] - lps[0, 0])
        across = [axis for axis in range(3) if np.ptp(lps[..., axis]) > 1]
        depth = np.minimum(lps - lo, hi - lps)[..., across].min(axis=-1)
        assert (away[marked] <= 3 * mm).all(), name
        assert (depth[marked] <= 3 * mm).all(), name  # not filled
    outlineRegion(scene.environment, scene.result, None)
    for name, view in scene.views.items():
        np.testing.assert_array_equal(view.pixels(), plain[name])


def test_the_place_being_edited_is_outlined_until_the_edit_ends_and_the_image_stays(scene):
    region = Region(1, (STRUCTURES[0].key,), tuple(LEFT), tuple(LEFT - 6), tuple(LEFT + 6), 1.0, 1.0, 0.9)
    place = np.linalg.norm(points() - LEFT, axis=-1) < 7
    plain = {name: view.pixels() for name, view in scene.views.items()}
    edit = beginEdit(scene.result, region, place)
    for name, view in scene.views.items():
        marked = changed(plain[name], view.pixels())
        distance = np.linalg.norm(view.grid_lps()[marked] - LEFT, axis=-1)
        assert marked.sum() > 40, name
        assert np.abs(distance - 7).max() < 4, name  # neither filled nor elsewhere
    assert edit.editable.any()
    endEdit(scene.result)
    for name, view in scene.views.items():
        np.testing.assert_array_equal(view.pixels(), plain[name])


def test_no_outline_where_a_view_does_not_cut_the_region(scene):
    view = scene.views["Red"]
    plain = view.pixels()
    outlineRegion(scene.environment, scene.result, BoxLPS((0.0, 0.0, 20.0), (9.0, 9.0, 26.0)))
    assert not changed(plain, view.pixels()).any()


def test_the_legend_stands_at_the_right_edge_and_goes_with_the_layer(scene):
    key = LayerKey("epistemic")
    scene.add(key)
    view = scene.views["Red"]
    showLayers(scene.environment, scene.result, [key], LayerStyle(legend=False))
    without = view.pixels()
    showLayers(scene.environment, scene.result, [key], LayerStyle(legend=True))
    with_legend = view.pixels()
    marked = changed(without, with_legend)
    assert marked[:, 200:].sum() > 300
    assert not marked[:, :40].any()
    bar = with_legend[:, 225:][marked[:, 225:]]
    brightest = color_table(256)[-8].astype(int)
    assert (np.abs(bar.astype(int) - brightest).max(axis=-1) < 30).any()
    showLayers(scene.environment, scene.result, [])
    assert not colored(view.pixels())[:, 225:].any()


def test_the_legend_comes_to_a_view_that_shows_the_layer_later_than_others(scene):
    key = LayerKey("total")
    scene.add(key)
    red, green = scene.views["Red"], scene.views["Green"]
    showLayers(scene.environment, scene.result, [key], compositeNodes=[green.composite])
    assert not colored(red.pixels())[:, 225:].any()
    showLayers(scene.environment, scene.result, [key])
    assert colored(red.pixels())[:, 225:].any()


# --- 3-D ---


def near(picture: np.ndarray, color, tolerance: float = 0.12) -> np.ndarray:
    """Which pixels have a colour's hue, however they are lit."""
    light = picture.astype(float)
    norm = np.linalg.norm(light, axis=-1, keepdims=True)
    wanted = np.array(color, float) / np.linalg.norm(color)
    return (np.linalg.norm(light / np.maximum(norm, 1) - wanted, axis=-1) < tolerance) & (norm[..., 0] > 60)


def test_the_structures_are_seen_in_3d_left_on_the_right_from_the_front(scene):
    scene.result.showSurfaces()
    view = ThreeDView(scene.environment, (240, 240))
    view.look(position=(0, 1, 0))
    picture = view.pixels()
    left, right = (np.argwhere(near(picture, structure.color)) for structure in STRUCTURES[:2])
    assert len(left) > 300
    assert len(right) > 300
    assert left[:, 1].mean() > 125 > 115 > right[:, 1].mean()
    scene.result.showSurfaces(False)
    assert not near(view.pixels(), STRUCTURES[0].color).any()


@pytest.mark.parametrize("key", layer_keys(), ids=lambda key: key.kind)
def test_a_layer_is_seen_on_a_slice_in_3d(scene, key):
    scene.add(key)
    scene.hide_segmentation()
    scene.views["Green"].node.SetSliceVisible(True)
    view = ThreeDView(scene.environment, (240, 240))
    view.look(position=(0, 1, 0))
    plain = view.pixels()
    showLayers(scene.environment, scene.result, [key], LayerStyle(0.9, 0.3, legend=False))
    picture = view.pixels()
    marked = changed(plain, picture)
    assert 100 < marked.sum() < 0.4 * marked.size
    assert np.argwhere(marked)[:, 1].mean() > 120  # the slice cuts the left ball
    assert near(picture, color_table(256)[140], 0.25)[marked].any()


def test_the_outline_of_a_region_is_seen_in_3d(scene):
    scene.result.showSurfaces()
    view = ThreeDView(scene.environment, (240, 240))
    view.look(position=(0, 1, 0.3))
    plain = view.pixels()
    outlineRegion(scene.environment, scene.result, BoxLPS(tuple(LEFT - 15), tuple(LEFT + 15)))
    marked = changed(plain, view.pixels())
    assert 80 < marked.sum() < 0.2 * marked.size
