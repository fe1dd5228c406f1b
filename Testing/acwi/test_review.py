# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from DIANetLib.acwi.review import (
    SCHEMA_VERSION,
    Region,
    find_regions,
    regions_from_csv,
    regions_from_json,
    regions_to_csv,
    regions_to_json,
)
from DIANetLib.errors import InputError
from DIANetLib.structures import ANATOMICAL_STRUCTURE, Code, Structure
from DIANetLib.volume import Geometry, Volume

STRUCTURES = tuple(
    Structure(
        value, key, key.capitalize(), (200, 40 * value, 0), ANATOMICAL_STRUCTURE, Code("99TEST", key, key)
    )
    for value, key in ((1, "head"), (2, "tail"), (5, "other"))
)
OBLIQUE = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])


def geometry(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    direction: np.ndarray | None = None,
) -> Geometry:
    k, j, i = shape
    return Geometry((i, j, k), spacing, (-10.0, 20.0, 5.0), np.eye(3) if direction is None else direction)


def find(
    error: np.ndarray, labels: np.ndarray | None = None, grid: Geometry | None = None, **options
) -> tuple:
    grid = grid or geometry(error.shape)
    labels = np.zeros(error.shape, dtype=np.uint8) if labels is None else labels
    return find_regions(Volume(error.astype(np.float32), grid), Volume(labels, grid), STRUCTURES, **options)


def sphere(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> np.ndarray:
    distances = [(np.arange(n) - c) ** 2 for n, c in zip(shape, centre, strict=True)]
    return sum(np.meshgrid(*distances, indexing="ij")) <= radius**2


def cube_with_errors() -> tuple[np.ndarray, np.ndarray]:
    """A cube of two structures with thin doubt around it and a blob of real doubt at one face."""
    labels = np.zeros((30, 30, 40), dtype=np.uint8)
    labels[10:20, 10:20, 10:17] = 1
    labels[10:20, 10:20, 17:24] = 2
    error = np.full(labels.shape, 0.01)
    error[9:10, 11:19, 10:20] = 0.35
    error[12:18, 12:18, 24:28] = 0.8
    return error, labels


def test_a_blob_of_doubt_beside_a_structure_is_first() -> None:
    error, labels = cube_with_errors()
    first, second = find(error, labels)
    assert first.rank == 1
    assert first.structures == ("tail",)
    assert first.volume_mm3 == 6 * 6 * 4
    assert first.expected_error_mm3 == pytest.approx(6 * 6 * 4 * 0.8, abs=1e-4)
    assert first.peak == pytest.approx(0.8)
    assert first.state == "open"
    # Index (i, j, k) 24..27, 12..17, 12..17 from the origin (-10, 20, 5), half a voxel more on each side.
    assert first.lo == (13.5, 31.5, 16.5)
    assert first.hi == (17.5, 37.5, 22.5)
    assert all(a < c < b for a, c, b in zip(first.lo, first.centre, first.hi, strict=True))
    assert second.rank == 2
    assert second.volume_mm3 == 8 * 10


def test_the_border_between_two_structures_is_told_from_their_border_with_the_background() -> None:
    error, labels = cube_with_errors()
    doubt = np.zeros_like(error)
    doubt[12:16, 12:16, 16:19] = 0.6  # one layer of the head, two of the tail
    (region,) = find(doubt, labels)
    assert region.structures == ("tail", "head")
    # At the surface of both: one face with the other structure for each two with the background.
    doubt = np.zeros_like(error)
    doubt[9:11, 12:16, 14:20] = 0.6
    (region,) = find(doubt, labels)
    assert region.structures == ("head",)


def test_doubt_weighs_which_border_is_in_question() -> None:
    error, labels = cube_with_errors()
    doubt = np.zeros_like(error)
    doubt[10:14, 12:16, 16:18] = 0.9  # head beside tail
    doubt[9, 12:16, 16:18] = 0.31  # and their surface
    (region,) = find(doubt, labels)
    assert set(region.structures) == {"head", "tail"}


def test_doubt_within_a_structure_is_about_that_structure() -> None:
    labels = np.ones((20, 20, 20), dtype=np.uint8)
    doubt = np.zeros(labels.shape)
    doubt[8:12, 8:12, 8:12] = 0.6
    (region,) = find(doubt, labels)
    assert region.structures == ("head",)


def test_labels_of_two_bytes_are_told_apart() -> None:
    labels = np.zeros((12, 12, 12), dtype=np.uint16)
    labels[:, :, :6], labels[:, :, 6:] = 65535, 256
    doubt = np.where(np.abs(np.arange(12) - 5.5) < 2, 0.6, 0.0) * np.ones(labels.shape)
    both = [dataclasses.replace(STRUCTURES[0], value=v, key=f"label_{v}") for v in (256, 65535)]
    regions = find_regions(
        Volume(doubt.astype(np.float32), geometry(labels.shape)), Volume(labels, geometry(labels.shape)), both
    )
    assert {region.structures for region in regions} <= {
        ("label_256", "label_65535"),
        ("label_65535", "label_256"),
    }


def test_expected_error_is_the_sum_of_probability_times_the_volume_of_a_voxel() -> None:
    rng = np.random.default_rng(0)
    error = np.zeros((12, 14, 16))
    error[3:7, 4:9, 5:10] = rng.uniform(0.4, 0.9, (4, 5, 5))
    grid = geometry(error.shape, (0.5, 1.5, 2.0))
    (region,) = find(error, grid=grid)
    assert region.expected_error_mm3 == pytest.approx(error.sum() * 1.5, rel=1e-6)
    assert region.volume_mm3 == pytest.approx(100 * 1.5)
    assert region.peak == pytest.approx(error.max(), abs=1e-6)


def test_voxels_below_the_threshold_do_not_count() -> None:
    error = np.zeros((10, 10, 10))
    error[2:5, 2:5, 2:8] = 0.4
    error[2:5, 2:5, 5:8] = 0.5
    assert find(error, threshold=0.45)[0].volume_mm3 == 27
    assert find(error, threshold=0.4)[0].volume_mm3 == 54
    assert find(error, threshold=0.6) == ()


def test_a_missed_part_away_from_every_structure_is_listed_with_the_nearest_one() -> None:
    error, labels = cube_with_errors()
    error[1:4, 1:4, 34:38] = 0.6
    regions = find(error, labels)
    missed = [region for region in regions if region.lo[0] > 20]
    assert len(missed) == 1
    assert missed[0].structures == ("tail",)
    assert missed[0].expected_error_mm3 == pytest.approx(3 * 3 * 4 * 0.6, abs=1e-4)


def test_where_nothing_was_segmented_no_structure_is_named() -> None:
    error = np.zeros((10, 10, 10))
    error[3:7, 3:7, 3:7] = 0.5
    (region,) = find(error)
    assert region.structures == ()


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [((1.0, 1.0, 1.0), (50, 50, 50)), ((1.0, 1.0, 3.0), (18, 50, 50)), ((2.0, 2.0, 2.0), (26, 26, 26))],
)
def test_a_shell_is_cut_into_places_of_bounded_extent_and_nothing_large_is_lost(
    spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing[::-1], strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt(z**2 + y**2 + x**2)
    error = 0.5 * np.exp(-((radius - 20) ** 2))
    regions = find(
        error, (radius < 20).astype(np.uint8), geometry(shape, spacing), threshold=0.3, maximum=1000
    )
    extents = np.array([np.subtract(region.hi, region.lo) - spacing for region in regions])
    assert extents.max() <= 15.0 + 1e-3
    # A disc of 15 mm covers 177 of the 5027 mm2: 28 at the very least, and a cover wastes about half.
    assert 28 <= len(regions) <= 110
    counted = error[error >= 0.3].sum() * np.prod(spacing)
    listed = sum(region.expected_error_mm3 for region in regions)
    assert 0.95 * counted < listed <= counted * (1 + 1e-5)
    # The first places are whole, not slivers: a third of the places holds nearly half of the error.
    assert sum(region.expected_error_mm3 for region in regions[: len(regions) // 3]) > 0.45 * listed


def test_the_extent_can_be_chosen() -> None:
    error = np.zeros((8, 8, 60))
    error[3:5, 3:5, 5:55] = 0.5
    longest = [max(r.hi[0] - r.lo[0] for r in find(error, extent_mm=extent)) for extent in (8.0, 20.0, 80.0)]
    assert longest[0] <= 9.0
    assert 9.0 < longest[1] <= 21.0
    assert longest[2] == 50.0


def test_parts_that_do_not_touch_are_regions_of_their_own() -> None:
    error = np.zeros((10, 10, 14))
    error[3:6, 3:6, 2:5] = 0.5
    error[3:6, 3:6, 7:10] = 0.6
    assert [region.volume_mm3 for region in find(error)] == [27, 27]


def test_specks_are_left_out_and_the_list_is_as_long_as_asked_for() -> None:
    error = np.zeros((10, 10, 60))
    for n, start in enumerate(range(1, 57, 5)):
        error[3:6, 3:6, start : start + 2] = 0.4 + 0.02 * n
    error[8, 8, 30] = 0.99
    assert len(find(error)) == 12
    assert len(find(error, minimum_mm3=0.0)) == 13
    assert find(error, minimum_mm3=19.0) == ()
    top = find(error, maximum=3)
    assert [region.rank for region in top] == [1, 2, 3]
    assert top == find(error)[:3]
    assert [r.expected_error_mm3 for r in find(error)] == sorted(
        (r.expected_error_mm3 for r in find(error)), reverse=True
    )


def test_the_same_input_gives_the_same_list_and_is_left_as_it_was() -> None:
    rng = np.random.default_rng(1)
    error = np.kron(rng.random((6, 6, 6)), np.ones((4, 4, 4)))
    labels = np.kron(rng.integers(0, 3, (6, 6, 6)), np.ones((4, 4, 4))).astype(np.uint8)
    before = error.copy(), labels.copy()
    first = find(error, labels)
    assert first
    assert first == find(error, labels)
    np.testing.assert_array_equal(error, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_equal_regions_are_ranked_by_their_place() -> None:
    error = np.zeros((10, 10, 60))
    for start in (5, 25, 45):
        error[3:6, 3:6, start : start + 3] = 0.5
    assert [region.centre[0] for region in find(error)] == [-10 + 6, -10 + 26, -10 + 46]


def test_an_oblique_grid_gives_world_positions() -> None:
    error = np.zeros((10, 12, 14))
    error[4:7, 5:8, 6:9] = 0.5
    grid = geometry(error.shape, (1.0, 2.0, 3.0), OBLIQUE)
    (region,) = find(error, grid=grid)
    np.testing.assert_allclose(region.centre, grid.index_to_world((7, 6, 5)), atol=1e-3)
    corners = grid.crop((6, 5, 4), (3, 3, 3)).corners_world()
    np.testing.assert_allclose(region.lo, corners.min(axis=0), atol=1e-3)
    np.testing.assert_allclose(region.hi, corners.max(axis=0), atol=1e-3)


def test_the_centre_is_a_voxel_of_the_region_even_if_it_is_bent() -> None:
    error = np.zeros((5, 20, 20))
    error[2] = 0.5 * (sphere((5, 20, 20), (2, 10, 10), 7)[2] & ~sphere((5, 20, 20), (2, 10, 10), 5)[2])
    error[2, 11:] = 0
    (region,) = find(error)
    i, j, k = np.rint(geometry(error.shape).world_to_index(region.centre)).astype(int)
    assert error[k, j, i] > 0


def test_a_single_slice_and_thick_slices_work() -> None:
    error = np.zeros((1, 40, 40))
    error[0, 5:35, 5:8] = 0.5
    regions = find(error, grid=geometry(error.shape, (1.0, 1.0, 20.0)))
    assert sum(region.volume_mm3 for region in regions) == 90 * 20
    assert max(region.hi[1] - region.lo[1] for region in regions) <= 16.0


def test_no_doubt_gives_an_empty_list() -> None:
    assert find(np.zeros((4, 5, 6))) == ()


def test_doubt_everywhere_still_gives_a_short_list_of_places() -> None:
    regions = find(np.full((40, 40, 40), 0.5), maximum=5)
    assert len(regions) == 5
    assert all(max(np.subtract(region.hi, region.lo)) <= 16 for region in regions)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threshold": 0.0}, "threshold is 0.0, expected more than 0"),
        ({"threshold": 1.0}, "threshold is 1.0, expected more than 0 and less than 1"),
        ({"minimum_mm3": -1.0}, "smallest volume of a region is -1.0"),
        ({"maximum": 0}, "regions asked for is 0, expected at least 1"),
        ({"extent_mm": 0.0}, "extent of a region is 0.0 mm"),
    ],
)
def test_options_out_of_range_get_a_sentence(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        find(np.zeros((4, 4, 4)), **options)


def test_volumes_that_do_not_fit_get_a_sentence() -> None:
    error = Volume(np.zeros((4, 4, 4), np.float32), geometry((4, 4, 4)))
    labels = Volume(np.zeros((4, 4, 4), np.uint8), geometry((4, 4, 4), (1.0, 1.0, 2.0)))
    with pytest.raises(InputError, match=r"different grids\. Resample"):
        find_regions(error, labels, STRUCTURES)
    with pytest.raises(InputError, match="goes from 0 to 2, expected 0 to 1"):
        find(np.pad(np.full((1, 1, 1), 2.0), 1))
    with pytest.raises(InputError, match="expected 0 to 1"):
        find(np.full((2, 2, 2), np.nan))
    with pytest.raises(InputError, match="values that no structure has: 3, 7"):
        find(np.zeros((1, 1, 3)), np.array([[[3, 1, 7]]], dtype=np.uint8))
    with pytest.raises(InputError, match="expected whole numbers"):
        find(np.zeros((2, 2, 2)), np.zeros((2, 2, 2), dtype=np.float32))


def example() -> tuple[Region, ...]:
    error, labels = cube_with_errors()
    regions = find(error, labels)
    nowhere = dataclasses.replace(regions[0], rank=3, structures=(), state="skipped")
    return (
        *regions,
        dataclasses.replace(nowhere, structures=("head", "tail")),
        dataclasses.replace(nowhere, rank=4),
    )


@pytest.mark.parametrize("regions", [example(), ()])
def test_json_and_csv_bring_back_what_was_written(regions: tuple[Region, ...]) -> None:
    assert regions_from_json(regions_to_json(regions)) == regions
    assert regions_from_csv(regions_to_csv(regions)) == regions


def test_json_says_its_schema_version_and_units() -> None:
    document = json.loads(regions_to_json(example()))
    assert document["schema"] == "dianet.regions"
    assert document["schema_version"] == SCHEMA_VERSION
    assert document["coordinates"] == "LPS, mm"
    assert document["regions"][0]["structures"] == ["tail"]


def test_csv_is_a_plain_table() -> None:
    header, first, *_ = regions_to_csv(example()).splitlines()
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert row["schema_version"] == str(SCHEMA_VERSION)
    assert (row["rank"], row["structures"], row["lo_l"], row["state"]) == ("1", "tail", "13.5", "open")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not valid JSON"),
        ("[]", "no list of regions"),
        ('{"schema": "something.else"}', 'expected "schema": "dianet.regions"'),
        ('{"schema": "dianet.regions"}', "schema version None"),
        ('{"schema": "dianet.regions", "schema_version": 99}', r"version 99.*Update DIANet"),
        ('{"schema": "dianet.regions", "schema_version": 1}', 'lacks its entry "regions"'),
        ('{"schema": "dianet.regions", "schema_version": 1, "regions": [{}]}', "entry that cannot be read"),
        ('{"schema": "dianet.regions", "schema_version": 1, "regions": [7]}', "entry that cannot be read"),
    ],
)
def test_json_that_is_no_list_of_regions_gets_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        regions_from_json(text)


def test_an_unknown_state_and_a_point_of_two_numbers_get_a_sentence() -> None:
    document = json.loads(regions_to_json(example()))
    document["regions"][0]["state"] = "forgotten"
    with pytest.raises(InputError, match="state is 'forgotten', expected one of open, accepted"):
        regions_from_json(json.dumps(document))
    document["regions"][0].update(state="open", lo=[1.0, 2.0])
    with pytest.raises(InputError, match="three coordinates"):
        regions_from_json(json.dumps(document))


def test_csv_that_is_no_list_of_regions_gets_a_sentence() -> None:
    text = regions_to_csv(example())
    with pytest.raises(InputError, match="expected the columns schema_version, rank"):
        regions_from_csv("a,b\n1,2\n")
    with pytest.raises(InputError, match="expected the columns"):
        regions_from_csv("")
    with pytest.raises(InputError, match=r"version 99.*Update DIANet"):
        regions_from_csv(text.replace("\n2,1,", "\n99,1,"))
    with pytest.raises(InputError, match="cannot be read"):
        regions_from_csv(text.replace("13.5", "far"))
    with pytest.raises(InputError, match="cannot be read"):
        regions_from_csv(text.splitlines()[0] + "\n2,1,head\n")
