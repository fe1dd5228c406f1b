# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from DIANetLib.errors import InputError
from Testing.training.slide_files import TISSUE, asap, rectangle, slide_pixels, write_slide
from training.annotations import Lesions, read_lesions
from training.slides import Tile, TileOptions, find_tiles, read_tile, tile_geometry, tissue

FINE = TileOptions(tile=32, spacing_um=0.5)


def corners(tiles: tuple[Tile, ...]) -> list[tuple[int, int]]:
    return [(tile.x, tile.y) for tile in tiles]


class TestTiles:
    def test_the_tiles_are_those_of_the_tissue_in_reading_order(self, tmp_path: Path):
        tiles = find_tiles(write_slide(tmp_path / "a.tif"), FINE)

        left, top, right, bottom = TISSUE
        expected = [(x, y) for y in range(top, bottom, 32) for x in range(left, right, 32)]
        assert corners(tiles) == expected
        assert {tile.side for tile in tiles} == {32}

    def test_tissue_that_fills_too_little_of_a_tile_does_not_count(self, tmp_path: Path):
        slide = write_slide(tmp_path / "a.tif", tissue=(64, 0, 112, 32))  # one tile and a half

        half, more = (
            find_tiles(slide, TileOptions(tile=32, spacing_um=0.5, tissue=share)) for share in (0.45, 0.55)
        )

        assert corners(half) == [(64, 0), (96, 0)]
        assert corners(more) == [(64, 0)]

    def test_a_slide_without_tissue_and_one_smaller_than_a_tile_have_no_tiles(self, tmp_path: Path):
        slide = write_slide(tmp_path / "a.tif", tissue=None)

        assert find_tiles(slide, FINE) == ()
        assert find_tiles(slide, TileOptions(tile=256, spacing_um=0.5)) == ()

    def test_a_tile_has_the_pixels_of_the_finest_level(self, tmp_path: Path):
        slide = write_slide(tmp_path / "a.tif")

        found = read_tile(slide, Tile(0, 96, 32, 32), 32)

        np.testing.assert_array_equal(found, slide_pixels()[32:64, 96:128])

    def test_a_coarser_tile_comes_from_the_coarser_level(self, tmp_path: Path):
        slide = write_slide(tmp_path / "a.tif")

        tiles = find_tiles(slide, TileOptions(tile=32, spacing_um=1.0))

        assert {(tile.level, tile.side) for tile in tiles} == {(1, 64)}
        assert corners(tiles)[0] == (64, 0)
        pixels = read_tile(slide, tiles[0], 32)
        np.testing.assert_array_equal(pixels, slide_pixels()[0:64:2, 64:128:2])

    def test_what_lies_between_two_levels_is_averaged_from_the_finer_one(self, tmp_path: Path):
        slide = write_slide(tmp_path / "a.tif")

        (tile, *_) = find_tiles(slide, TileOptions(tile=16, spacing_um=0.75))

        assert (tile.level, tile.side) == (0, 24)
        pixels = read_tile(slide, tile, 16).astype(float)
        source = slide_pixels()[tile.y : tile.y + 24, tile.x : tile.x + 24]
        np.testing.assert_allclose(pixels.mean((0, 1)), source.mean((0, 1)), atol=0.5)

    def test_a_choice_of_tiles_depends_on_seed_and_slide_alone(self, tmp_path: Path):
        one, other = write_slide(tmp_path / "one.tif"), write_slide(tmp_path / "other.tif")
        few = TileOptions(tile=16, spacing_um=0.5, per_slide=7)

        first = find_tiles(one, few)

        assert len(first) == 7
        assert first == find_tiles(one, few)
        assert corners(first) == sorted(corners(first), key=lambda corner: corner[::-1])
        assert first != find_tiles(other, few)
        assert first != find_tiles(one, few.model_copy(update={"seed": 2}))

    @pytest.mark.parametrize(("right", "lesion_tiles"), [(96, 4), (80, 3)])
    def test_half_of_the_chosen_tiles_show_lesion_if_there_are_as_many(
        self, tmp_path: Path, right: int, lesion_tiles: int
    ):
        """The tissue has 48 tiles of 16 pixels; outlines touch 6 of them, or 3."""
        slide = write_slide(tmp_path / "a.tif")
        lesions = Lesions((np.array(rectangle(64, 0, right, 48)),))
        few = TileOptions(tile=16, spacing_um=0.5, per_slide=8)

        tiles = find_tiles(slide, few, lesions)

        assert len(tiles) == 8
        assert sum(tile.x < right and tile.y < 48 for tile in tiles) == lesion_tiles

    def test_a_tile_lies_where_it_is_on_the_slide_in_millimetres(self):
        grid = tile_geometry(Tile(1, 128, 64, 64), TileOptions(tile=32, spacing_um=1.0))

        assert grid.size == (32, 32, 1)
        assert grid.spacing == (0.001, 0.001, 1.0)
        np.testing.assert_allclose(grid.origin, (0.064, 0.032, 0.0))

    def test_tissue_is_what_is_coloured(self):
        pixels = np.full((4, 6, 3), 245, np.uint8)
        pixels[1:3, 2:4] = (190, 90, 160)
        pixels[0, 0] = (60, 60, 60)  # a pen's black has no colour

        found = tissue(pixels)

        assert found.sum() == 4
        assert found[1:3, 2:4].all()

    def test_slides_that_cannot_be_used_get_a_sentence(self, tmp_path: Path):
        with pytest.raises(InputError, match=r"There is no slide .*none.tif"):
            find_tiles(tmp_path / "none.tif", FINE)
        (tmp_path / "text.tif").write_text("no slide")
        with pytest.raises(InputError, match=r"The slide .*text.tif cannot be opened: .*tiled TIFF"):
            find_tiles(tmp_path / "text.tif", FINE)
        with pytest.raises(InputError, match=r"has 0.5 µm per pixel, expected at most 0.25"):
            find_tiles(write_slide(tmp_path / "a.tif"), TileOptions(tile=32, spacing_um=0.25))
        unknown = write_slide(tmp_path / "b.tif", um=None)
        with pytest.raises(InputError, match=r"b.tif does not say how large .*data.options.source_um"):
            find_tiles(unknown, FINE)
        said = FINE.model_copy(update={"source_um": 0.5})
        assert find_tiles(unknown, said) == find_tiles(write_slide(tmp_path / "c.tif"), FINE)


class TestOutlines:
    def test_a_rectangle_is_drawn_exactly_and_a_hole_is_left_out(self):
        lesions = Lesions((np.array(rectangle(10, 20, 18, 24)),), (np.array(rectangle(12, 21, 14, 23)),))

        mask = lesions.mask((8, 18), (16, 8), (16, 8))

        expected = np.zeros((8, 16), np.uint8)
        expected[2:6, 2:10] = 1
        expected[3:5, 4:6] = 0
        np.testing.assert_array_equal(mask, expected)

    def test_a_coarser_mask_has_the_pixels_that_are_covered_by_half(self):
        lesions = Lesions((np.array(rectangle(0, 0, 6, 8)),))

        assert lesions.mask((0, 0), (8, 8), (2, 2)).tolist() == [[1, 1], [1, 1]]
        assert Lesions((np.array(rectangle(0, 0, 5, 8)),)).mask((0, 0), (8, 8), (2, 2)).tolist() == [
            [1, 0],
            [1, 0],
        ]

    def test_the_area_of_a_triangle_is_kept(self):
        lesions = Lesions((np.array([(3.0, 2.0), (61.0, 9.0), (20.0, 55.0)]),))
        area = 0.5 * abs((61 - 3) * (55 - 2) - (20 - 3) * (9 - 2))

        assert lesions.mask((0, 0), (64, 64), (64, 64)).sum() == pytest.approx(area, rel=0.02)

    def test_groups_of_both_challenges_are_read_in_the_order_of_their_points(self, tmp_path: Path):
        file = tmp_path / "a.xml"
        file.write_text(asap(("metastases", rectangle(0, 0, 4, 4)), ("normal", rectangle(1, 1, 2, 2))))
        lesions = read_lesions(file)
        assert lesions.outlines[0].tolist() == [[0, 0], [4, 0], [4, 4], [0, 4]]
        assert len(lesions.holes) == 1
        file.write_text(asap(("_0", rectangle(0, 0, 4, 4)), ("Tumor", rectangle(0, 0, 4, 4))))
        assert len(read_lesions(file).outlines) == 2
        text = asap(("metastases", [(0, 0), (4, 0), (4, 4)]))
        file.write_text(text.replace('Order="0"', 'Order="7"'))
        assert read_lesions(file).outlines[0].tolist() == [[4, 0], [4, 4], [0, 0]]

    def test_files_that_cannot_be_used_get_a_sentence(self, tmp_path: Path):
        file = tmp_path / "a.xml"
        with pytest.raises(InputError, match=r"The annotation .*a.xml cannot be read"):
            read_lesions(file)
        file.write_text("<ASAP_Annotations>")
        with pytest.raises(InputError, match=r"The annotation .*a.xml cannot be read"):
            read_lesions(file)
        file.write_text(asap(("metastases", [(0, 0), (4, 4)])))
        with pytest.raises(InputError, match="'Annotation 0' has 2 points, expected at least 3 of a polygon"):
            read_lesions(file)
        file.write_text(asap(("stroma", rectangle(0, 0, 4, 4))))
        with pytest.raises(InputError, match=r"is of the group 'stroma', expected one of .*metastases"):
            read_lesions(file)
        file.write_text(asap(("normal", rectangle(0, 0, 4, 4))))
        with pytest.raises(InputError, match="outlines no lesion"):
            read_lesions(file)
        file.write_text(asap(("metastases", rectangle(0, 0, 4, 4))).replace('X="4"', 'X="four"'))
        with pytest.raises(InputError, match="a coordinate without a number"):
            read_lesions(file)
