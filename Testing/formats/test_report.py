# SPDX-License-Identifier: Apache-2.0
"""The report: sides are right, shapes keep their proportions, the page is well formed and complete."""

from __future__ import annotations

import base64
import io
import itertools
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from DIANetLib.acwi.familiarity import Familiarity
from DIANetLib.acwi.review import find_regions
from DIANetLib.formats import report_parts
from DIANetLib.formats.colormap import color_table, css_gradient
from DIANetLib.formats.report import render_report
from DIANetLib.formats.report_pictures import AXIAL, CORONAL, PLANES, SAGITTAL, Display, Frame, grey_window
from DIANetLib.formats.report_views import SCALES, Views
from DIANetLib.inference.prediction import Box
from DIANetLib.volume import Geometry

VOID = {"meta", "img", "br", "hr", "link", "input"}
ORIENTATIONS = [
    np.diag(signs)[:, list(order)]
    for order in itertools.permutations(range(3))
    for signs in itertools.product((-1.0, 1.0), repeat=3)
]


class Page(HTMLParser):
    """Notes every start tag and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def parse(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def luminance(rgb: np.ndarray) -> np.ndarray:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def ball(geometry: Geometry, radius_mm: float) -> np.ndarray:
    k, j, i = np.indices(geometry.shape)
    world = geometry.index_to_world(np.stack([i, j, k], axis=-1))
    middle = geometry.index_to_world([(n - 1) / 2 for n in geometry.size])
    return (np.linalg.norm(world - middle, axis=-1) <= radius_mm).astype(np.uint8)


@pytest.mark.parametrize("direction", ORIENTATIONS)
def test_a_volume_of_any_orientation_is_seen_with_axes_to_superior_posterior_and_left(direction):
    geometry = Geometry((4, 5, 6), (1.0, 2.0, 3.0), (7.0, -8.0, 9.0), direction)
    k, j, i = np.indices(geometry.shape)
    world = geometry.index_to_world(np.stack([i, j, k], axis=-1))
    display = Display(geometry)
    for axis, lps in enumerate((2, 1, 0)):
        seen = display.view(world[..., lps])
        assert seen.shape == display.shape
        steps = np.diff(seen, axis=axis)
        np.testing.assert_allclose(steps, display.spacing[axis])


@pytest.mark.parametrize("direction", ORIENTATIONS[::5])
def test_display_index_and_world_position_are_inverse(direction):
    display = Display(Geometry((4, 5, 6), (1.0, 2.0, 3.0), (7.0, -8.0, 9.0), direction))
    for point in ((0, 0, 0), (1, 2, 3), tuple(n - 1 for n in display.shape)):
        assert display.point(display.world(point)) == point


@pytest.mark.parametrize("direction", ORIENTATIONS[::5])
def test_a_world_box_covers_the_voxels_whose_centres_are_in_it(direction):
    geometry = Geometry((9, 8, 7), (1.0, 1.0, 1.0), (7.0, -8.0, 9.0), direction)
    k, j, i = np.indices(geometry.shape)
    world = geometry.index_to_world(np.stack([i, j, k], axis=-1))
    middle = world.reshape(-1, 3).mean(axis=0)
    box = Box(tuple(middle - (2.6, 1.6, 2.1)), tuple(np.add(middle, (1.4, 2.4, 1.9))))
    display = Display(geometry)
    lo, hi = display.box(box)
    inside = np.argwhere(display.view(box.contains(world)))
    assert all(a <= b for a, b in zip(lo, inside.min(axis=0), strict=True))
    assert all(a >= b + 1 for a, b in zip(hi, inside.max(axis=0), strict=True))
    assert all(h - low <= n + 2 for low, h, n in zip(lo, hi, np.ptp(inside, axis=0) + 1, strict=True))


@pytest.mark.parametrize("direction", ORIENTATIONS[::7])
@pytest.mark.parametrize(
    ("plane", "lps", "right_half", "lower_half"),
    [
        (AXIAL, (6.0, 0.0, 0.0), True, None),  # left
        (AXIAL, (0.0, 6.0, 0.0), None, True),  # posterior
        (CORONAL, (6.0, 0.0, 0.0), True, None),
        (CORONAL, (0.0, 0.0, 6.0), None, False),  # superior
        (SAGITTAL, (0.0, -6.0, 0.0), False, None),  # anterior
        (SAGITTAL, (0.0, 0.0, -6.0), None, True),  # inferior
    ],
)
def test_a_mark_appears_on_the_side_that_radiologists_expect(direction, plane, lps, right_half, lower_half):
    geometry = Geometry((17, 17, 17), (1.0, 1.0, 1.0), tuple(-8.0 * direction.sum(axis=1)), direction)
    array = np.zeros(geometry.shape, np.float32)
    i, j, k = np.rint(geometry.world_to_index(lps)).astype(int)
    array[k, j, i] = 100.0
    display = Display(geometry)
    frame = Frame(display, plane, display.point((0.0, 0.0, 0.0)), 17.0, 170)
    picture = np.asarray(frame.grey(display.view(array), (0.0, 100.0)))[..., 0]
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    assert right_half is None or (column > 100) == right_half
    assert lower_half is None or (row > 100) == lower_half
    middles = [v for v, half in ((column, right_half), (row, lower_half)) if half is None]
    assert all(abs(v - 85) <= 5 for v in middles)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (2.0, 0.7, 1.0), (0.1, 0.1, 0.1)])
def test_a_ball_is_drawn_round_whatever_the_shape_of_the_voxels(plane, spacing):
    size = tuple(round(40.0 / s) if s >= 0.7 else 120 for s in spacing)
    radius = 0.3 * min(n * s for n, s in zip(size, spacing, strict=True))
    geometry = Geometry(size, spacing, (0.0, 0.0, 0.0), np.eye(3))
    display = Display(geometry)
    seen = display.view(ball(geometry, radius))
    center = tuple(n // 2 for n in display.shape)
    frame = Frame(display, plane, center, 3.0 * radius, 200)
    drawn = np.argwhere(frame.sample(frame.slice(seen)) >= 0.5)
    expected = 200 * 2 / 3
    per_voxel = [200 / (3.0 * radius) * display.spacing[axis] for axis in plane.axes]
    for extent, voxel in zip(np.ptp(drawn, axis=0) + 1, per_voxel, strict=True):
        assert abs(extent - expected) <= 1.6 * voxel + 2


@pytest.mark.parametrize("plane", PLANES)
def test_drawn_positions_agree_with_drawn_voxels(plane):
    geometry = Geometry((20, 16, 12), (1.0, 1.5, 2.0), (0.0, 0.0, 0.0), np.eye(3))
    display, array = Display(geometry), np.zeros(geometry.shape, np.float32)
    seen = display.view(array)
    seen[4, 6, 11] = 1.0
    center = [7, 9, 8]
    center[plane.normal] = (4, 6, 11)[plane.normal]
    frame = Frame(display, plane, tuple(center), 24.0, 240)
    drawn = frame.sample(frame.slice(seen))
    rows, columns = np.indices(drawn.shape)
    found = (((columns + 0.5) * drawn).sum() / drawn.sum(), ((rows + 0.5) * drawn).sum() / drawn.sum())
    down, right = plane.axes
    np.testing.assert_allclose(
        frame.to_pixels((4, 6, 11)[down] + 0.5, (4, 6, 11)[right] + 0.5), found, atol=0.1
    )


def test_beyond_the_image_a_picture_is_black():
    geometry = Geometry((6, 6, 6), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    frame = Frame(Display(geometry), AXIAL, (3, 3, 3), 12.0, 120)
    drawn = frame.sample(np.ones((6, 6)))
    assert drawn[0, 0] == 0.0
    np.testing.assert_allclose(drawn[26:84, 26:84], 1.0)
    assert abs((drawn > 0).sum() - 60 * 60) <= 2 * 60


def test_an_overlay_is_clear_at_zero_and_saturates_at_its_maximum():
    geometry = Geometry((6, 6, 6), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    frame = Frame(Display(geometry), AXIAL, (3, 3, 3), 4.0, 40)
    grey = Image.new("RGB", (40, 40), (100, 100, 100))
    assert np.array_equal(np.asarray(frame.overlay(grey, np.zeros((6, 6, 6)), 0.5)), np.asarray(grey))
    brightest = np.round(0.1 * 100 + 0.9 * color_table()[-1].astype(float))
    for value in (0.5, 7.0):
        drawn = np.asarray(frame.overlay(grey, np.full((6, 6, 6), value), 0.5))
        assert np.abs(drawn - brightest).max() <= 1


def test_outlines_are_drawn_in_the_colour_of_their_label_and_only_at_its_border():
    geometry = Geometry((12, 12, 12), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    labels = np.zeros(geometry.shape, np.uint8)
    labels[:, 3:9, 3:9] = 2
    frame = Frame(Display(geometry), AXIAL, (6, 6, 6), 12.0, 120)
    drawn = np.asarray(
        frame.outlines(Image.new("RGB", (120, 120)), labels, {1: (9, 9, 9), 2: (200, 100, 50)})
    )
    colored = (drawn == (200, 100, 50)).all(axis=-1)
    assert colored.any()
    assert not drawn[~colored].any()
    assert not drawn[35:75, 35:75].any()
    rows, columns = np.nonzero(colored)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((25, 84, 25, 84), abs=1)


def test_the_colour_map_grows_evenly_lighter_from_nearly_black_to_pale_yellow():
    table = color_table() / 255.0
    y = luminance(table)
    lightness = np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)
    assert lightness[0] < 4
    assert lightness[-1] > 94
    np.testing.assert_allclose(lightness, np.linspace(lightness[0], lightness[-1], 256), atol=1.0)
    with pytest.raises(ValueError, match="read-only"):
        color_table()[0] = 0


def test_a_colour_bar_has_the_colours_of_the_map():
    stops = re.findall(r"#[0-9a-f]{6}", css_gradient(3))
    assert stops == ["#{:02x}{:02x}{:02x}".format(*c) for c in color_table(3).tolist()]


def test_the_grey_window_spans_most_of_the_image_and_is_never_empty():
    low, high = grey_window(np.linspace(0.0, 1000.0, 8000).reshape(20, 20, 20))
    assert 0 < low < 20
    assert 980 < high < 1000
    low, high = grey_window(np.full((4, 4, 4), 5.0))
    assert high > low


def test_the_page_is_well_formed_and_needs_no_other_file(case):
    regions = find_regions(
        case.prediction.error_probability, case.prediction.labels, case.prediction.structures
    )
    html = render_report(case.prediction, case.gradcam, [case.image], regions)
    page = parse(html)
    assert html.startswith("<!DOCTYPE html>")
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3 + 2 * 4 * 3 + min(len(regions), 6)
    for image in images:
        assert image["alt"]
        assert image["src"].startswith("data:image/jpeg;base64,")
        picture = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
        assert picture.size == (int(image["width"]), int(image["height"]))
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"data:image[^\"]*", "", html))
    assert len(html) < 3_000_000


def test_the_page_says_what_was_found_how_sure_and_for_what_use(case):
    text = parse(render_report(case.prediction, case.gradcam, [case.image])).text
    volume, confidence = case.prediction.volumes_ml["ball_left"], case.prediction.confidence["ball_left"]
    assert f"Ball left: expected Dice 0.90 (no interval), {volume:.2f} ml. green" in text
    assert f"{confidence:.3f}" in text
    assert "Ghost: not found, so no Dice is expected. red" in text
    assert "For research use only." in text
    assert "ln 2 ≈ 0.69 nats" in text
    assert "0.2 nats" in text
    assert "Grad-CAM: Ball right" in text
    assert "Region 1: Ball left" in text
    assert "balls 1.0, 10 samples, cpu" in text
    assert case.image.sha256() in text
    assert "None: no region" in text


def test_regions_are_listed_with_their_centre_in_ras(case):
    regions = find_regions(
        case.prediction.error_probability, case.prediction.labels, case.prediction.structures
    )
    assert regions
    x, y, z = regions[0].centre
    text = parse(render_report(case.prediction, {}, [case.image], regions)).text
    assert "Centre R, A, S (mm)" in text
    assert f"{-x:.1f}, {-y + 0.0:.1f}, {z:.1f}".replace("-", "−") in text


def test_text_from_outside_cannot_become_markup(case):
    image = replace(case.image, name="<script>alert(1)</script>", source='/tmp/"><b>x')
    html = render_report(case.prediction, {}, [image])
    assert "<script" not in html
    assert "<b>" not in html
    page = parse(html)
    assert "<script>alert(1)</script>" in page.text
    assert "The image was <resampled> & more." in page.text


def test_without_regions_of_interest_the_whole_image_is_one_view(case_on):
    case = case_on(Geometry((52, 30, 14), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), np.eye(3)), regions=False)
    page = parse(render_report(case.prediction, {}, [case.image]))
    assert "Whole image: Ball left, Ball right" in page.text
    assert "Boxes:" not in page.text


def test_an_oblique_grid_is_shown_and_said_to_be_oblique(case_on, oblique_geometry):
    geometry = replace(oblique_geometry(3, size=(30, 24, 20)), spacing=(1.6, 1.6, 1.6))
    case = case_on(geometry)
    assert (
        "The slices follow the image's own axes"
        in parse(render_report(case.prediction, {}, [case.image])).text
    )


def test_the_summary_says_whether_the_image_is_familiar(case):
    known = replace(case.prediction, familiarity=(Familiarity(5.5, "unfamiliar"),))
    line = "Image: unfamiliar, not like what the model was fitted on (score 5.5)."
    assert line in render_report(known, {}, [case.image])
    assert "Image: " not in render_report(case.prediction, {}, [case.image])


def test_expected_dice_comes_with_its_interval_and_light(case):
    found = {"ball_left": 0.8, "ball_right": 0.62, "ghost": None}
    ends = {"ball_left": (0.71, 0.86), "ball_right": (0.4, 0.75)}
    prediction = replace(case.prediction, expected_dice=found, dice_interval=ends)
    text = parse(render_report(prediction, {}, [case.image])).text
    left, right = (prediction.volumes_ml[key] for key in ends)
    assert f"Ball left: expected Dice 0.80 (0.71–0.86), {left:.2f} ml. amber" in text
    assert f"Ball right: expected Dice 0.62 (0.40–0.75), {right:.2f} ml. red" in text
    assert "0.710 to 0.860" in text
    assert "regression on the mean Dice between samples" in text
    assert "amber from 0.70" in text
    one_pass = parse(render_report(replace(prediction, samples=0, one_pass=True), {}, [case.image])).text
    assert "regression on the error probability" in one_pass
    assert "between samples" not in one_pass


def test_an_image_of_one_slice_has_one_picture_of_each_kind(case_on):
    case = case_on(Geometry((52, 30, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3)))
    page = parse(render_report(case.prediction, case.gradcam, [case.image]))
    assert sum(tag == "img" for tag, _ in page.tags) == 1 + 2 * 4
    assert "Coronal" not in page.text


def test_a_prediction_that_found_nothing_still_has_a_report(case):
    nothing = case.prediction.labels.with_array(np.zeros_like(case.prediction.labels.array))
    blank = dict.fromkeys(case.prediction.confidence)
    prediction = replace(
        case.prediction,
        labels=nothing,
        confidence=blank,
        expected_dice=blank,
        volumes_ml=dict.fromkeys(blank, 0.0),
    )
    text = parse(render_report(prediction, case.gradcam, [case.image])).text
    assert text.count("not found, so no Dice is expected.") == 3
    assert "Region 1: nothing found" in text
    assert "Grad-CAM: Ball left" in text


def test_grad_cam_is_shown_where_its_structure_is(case):
    views = Views(case.prediction, case.image, case.gradcam)
    titles = [[row.title for row in views.rows(view) if row.kind == "gradcam"] for view in views.views]
    assert titles == [["Grad-CAM: Ball left"], ["Grad-CAM: Ball right"]]


def test_many_regions_of_interest_are_cut_short_and_it_is_said(case):
    prediction = replace(case.prediction, regions_of_interest=case.prediction.regions_of_interest * 4)
    views = Views(prediction, case.image, {})
    assert len(views.views) == 6
    assert views.omitted == ["Pictures of the first 6 of 8 regions of interest are shown."]


def test_pictures_lose_quality_rather_than_make_the_page_large(case, monkeypatch):
    full = render_report(case.prediction, case.gradcam, [case.image])
    monkeypatch.setattr(report_parts, "_PICTURE_BYTES", 1)
    assert len(render_report(case.prediction, case.gradcam, [case.image])) < 0.8 * len(full)


def test_the_scales_are_fixed():
    assert [SCALES[kind] for kind in ("total", "epistemic", "gradcam")] == [
        pytest.approx(math.log(2)),
        0.2,
        1.0,
    ]
