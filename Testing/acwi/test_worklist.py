# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.acwi.review import Region, find_regions, regions_from_csv, regions_to_csv, regions_to_json
from DIANetLib.acwi.worklist import (
    Progress,
    RegionFinder,
    Worklist,
    edit_mask,
    load_worklist,
    save_worklist,
)
from DIANetLib.errors import InputError, OutputError
from DIANetLib.structures import ANATOMICAL_STRUCTURE, Code, Structure
from DIANetLib.volume import Geometry, Volume

NOON = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)
HEAD = Structure(1, "head", "Head", (200, 40, 0), ANATOMICAL_STRUCTURE, Code("99TEST", "head", "head"))


def region(
    rank: int, lo: float = 0.0, size: float = 10.0, expected: float = 5.0, **changes: object
) -> Region:
    """A cube of `size` mm whose lower corner is at `lo` along each axis."""
    middle, hi = lo + size / 2, lo + size
    made = Region(rank, ("head",), (middle,) * 3, (lo,) * 3, (hi,) * 3, size**3, expected, 0.5)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def worklist(*expected: float) -> Worklist:
    """Regions 100 mm apart."""
    return Worklist(tuple(region(n, 100.0 * n, expected=e) for n, e in enumerate(expected, start=1)))


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Geometry:
    k, j, i = shape
    return Geometry((i, j, k), spacing, (-10.0, 20.0, 5.0), np.eye(3))


def test_a_judgement_says_what_when_and_who() -> None:
    before = worklist(9.0, 5.0)
    after = before.with_state(2, "corrected", reviewer="  Dr  Ada ", when=NOON)
    judged = after.regions[1]
    assert (judged.state, judged.reviewer) == ("corrected", "Dr Ada")
    assert datetime.fromisoformat(judged.changed) == NOON
    assert after.regions[0] == before.regions[0]
    assert before.regions[1].state == "open"


def test_without_a_time_it_is_now_with_the_offset_from_utc() -> None:
    start = datetime.now(UTC).replace(microsecond=0)
    changed = datetime.fromisoformat(worklist(1.0).with_state(1, "skipped").regions[0].changed)
    assert changed.utcoffset() is not None
    assert start <= changed <= datetime.now(UTC)


def test_opening_a_region_again_forgets_the_judgement() -> None:
    judged = worklist(1.0).with_state(1, "accepted", reviewer="A", when=NOON)
    assert judged.with_state(1, "open", reviewer="B") == worklist(1.0)


def test_a_wrong_rank_or_state_gets_a_sentence() -> None:
    with pytest.raises(InputError, match="worklist has no region of rank 3; it has 2"):
        worklist(2.0, 1.0).with_state(3, "accepted")
    with pytest.raises(InputError, match="state of a region is 'done', expected one of open, accepted"):
        worklist(1.0).with_state(1, "done")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="two regions of rank 1"):
        Worklist((region(1), region(1)))


def test_next_goes_round_and_passes_over_what_is_judged() -> None:
    some = worklist(4.0, 3.0, 2.0, 1.0).with_state(3, "accepted").with_state(1, "skipped")
    assert [r.rank for r in (some.following(None), some.following(2), some.following(4)) if r] == [2, 4, 2]
    assert worklist().following(None) is None
    assert worklist(1.0).with_state(1, "accepted").following(1) is None
    alone = worklist(1.0).following(1)
    assert alone is not None
    assert alone.rank == 1


def test_progress_counts_states_and_the_error_that_is_left() -> None:
    some = worklist(4.0, 3.0, 2.0, 1.0).with_state(1, "corrected").with_state(4, "accepted")
    assert some.progress() == Progress(
        open=2, accepted=1, corrected=1, skipped=0, expected_error_mm3_open=5.0
    )
    assert (some.progress().total, some.progress().judged) == (4, 2)


def test_ranking_anew_keeps_what_was_said_of_the_same_place() -> None:
    before = worklist(9.0, 5.0, 1.0).with_state(2, "accepted", reviewer="A", when=NOON)
    # The place has shrunk and now comes first.
    found = (region(1, 201.0, size=8.0, expected=20.0), region(2, 100.0, expected=9.0))
    after = before.reranked(found)
    assert [(r.state, r.expected_error_mm3) for r in after.regions] == [("accepted", 20.0), ("open", 9.0)]
    assert (after.regions[0].reviewer, after.regions[0].changed) == ("A", NOON.isoformat())
    assert after.regions[0].lo == (201.0,) * 3


def test_a_judged_place_that_is_not_found_again_stays_on_the_list() -> None:
    before = worklist(9.0, 5.0, 1.0).with_state(2, "corrected", reviewer="A", when=NOON)
    after = before.reranked((region(1, 500.0, expected=7.0), region(2, 600.0, expected=3.0)))
    assert [(r.rank, r.state, r.expected_error_mm3) for r in after.regions] == [
        (1, "open", 7.0),
        (2, "corrected", 5.0),
        (3, "open", 3.0),
    ]
    assert after.reranked(()).regions == (dataclasses.replace(before.regions[1], rank=1),)


def test_a_neighbour_does_not_inherit() -> None:
    before = Worklist((region(1, 0.0),)).with_state(1, "accepted", when=NOON)
    after = before.reranked((region(1, 6.0), region(2, 0.0, size=30.0, expected=1.0)))
    assert [(r.lo[0], r.state) for r in after.regions] == [(6.0, "open"), (0.0, "accepted"), (0.0, "open")]


def test_of_two_candidates_the_one_that_shares_more_inherits() -> None:
    before = Worklist((region(1, 0.0),)).with_state(1, "accepted", when=NOON)
    after = before.reranked((region(1, 1.0, expected=9.0), region(2, 0.5, expected=8.0)))
    assert [r.state for r in after.regions] == ["open", "accepted"]


def test_a_finder_lists_what_find_regions_lists() -> None:
    rng = np.random.default_rng(3)
    error = Volume(np.kron(rng.random((4, 5, 6)), np.ones((4, 4, 4))).astype(np.float32), grid((16, 20, 24)))
    labels = Volume(np.zeros((16, 20, 24), np.uint8), error.geometry)
    finder = RegionFinder(error, labels, [HEAD])
    for options in ({}, {"threshold": 0.7, "maximum": 3}, {"minimum_mm3": 100.0, "extent_mm": 8.0}):
        assert finder.find(**options) == find_regions(error, labels, [HEAD], **options)  # type: ignore[arg-type]


def test_an_edit_may_reach_a_margin_beyond_the_doubtful_voxels() -> None:
    error = np.zeros((9, 11, 13), np.float32)
    error[4, 5, 6] = 0.9
    error[4, 5, 0:2] = 0.9  # another place: outside the region's box
    volume = Volume(error, grid(error.shape, (1.0, 1.0, 2.0)))
    labels = volume.with_array(np.zeros(error.shape, np.uint8))
    found = find_regions(volume, labels, [HEAD], minimum_mm3=0.0)
    (one,) = (r for r in found if r.volume_mm3 == 2.0)
    mask = edit_mask(one, volume, threshold=0.3, margin_mm=2.0)
    k, j, i = np.meshgrid(*(np.arange(n) for n in error.shape), indexing="ij")
    expected = (2.0 * (k - 4)) ** 2 + (j - 5) ** 2 + (i - 6) ** 2 <= 4
    np.testing.assert_array_equal(mask, expected)
    assert edit_mask(one, volume, threshold=0.3, margin_mm=0.0).sum() == 1


def test_an_edit_mask_is_never_empty() -> None:
    volume = Volume(np.zeros((9, 9, 9), np.float32), grid((9, 9, 9)))
    place = Region(1, (), (-6.0, 24.0, 9.0), (-7.5, 22.5, 7.5), (-4.5, 25.5, 10.5), 27.0, 9.0, 0.5)
    mask = edit_mask(place, volume, threshold=0.3, margin_mm=0.0)
    assert np.argwhere(mask).tolist() == [[4, 4, 4]]


def test_an_edit_mask_of_a_place_elsewhere_or_a_wrong_margin_gets_a_sentence() -> None:
    volume = Volume(np.zeros((9, 9, 9), np.float32), grid((9, 9, 9)))
    with pytest.raises(InputError, match="Region 1 lies outside the image"):
        edit_mask(region(1, 500.0), volume, threshold=0.3)
    with pytest.raises(InputError, match=r"margin of an edit is -1\.0 mm"):
        edit_mask(region(1), volume, threshold=0.3, margin_mm=-1.0)


def test_a_worklist_comes_back_from_its_folder_with_a_table_beside_it(tmp_path: Path) -> None:
    kept = worklist(4.0, 3.0).with_state(1, "corrected", reviewer="Zoë, M.D.", when=NOON)
    save_worklist(tmp_path, kept)
    assert load_worklist(tmp_path) == kept
    assert load_worklist(tmp_path / "regions.csv") == kept
    assert sorted(file.name for file in tmp_path.iterdir()) == ["regions.csv", "regions.json"]


def test_saving_keeps_permissions_and_replaces_whole_files(tmp_path: Path) -> None:
    file = tmp_path / "regions.json"
    save_worklist(file, worklist(1.0))
    file.chmod(0o640)
    reader = file.open(encoding="utf-8")
    save_worklist(file, worklist(2.0, 1.0))
    with reader:  # who had it open still reads the earlier one
        assert reader.read() == regions_to_json(worklist(1.0).regions)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert load_worklist(file) == worklist(2.0, 1.0)


def test_a_failed_save_leaves_the_earlier_list_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_worklist(tmp_path, worklist(1.0))

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left on device\. Make the folder writable or make room"):
        save_worklist(tmp_path, worklist(2.0, 1.0))
    assert load_worklist(tmp_path) == worklist(1.0)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_stopping_at_any_step_leaves_the_earlier_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    save_worklist(tmp_path, worklist(1.0))

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, step, stop)
    with pytest.raises(KeyboardInterrupt):
        save_worklist(tmp_path, worklist(2.0, 1.0))
    assert load_worklist(tmp_path) == worklist(1.0)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_killed_process_left_behind_goes_with_the_next_save(tmp_path: Path) -> None:
    left, busy = tmp_path / ".regions.json.abc.partial", tmp_path / ".regions.json.def.partial"
    for file in (left, busy):
        file.write_text("{", encoding="utf-8")
    os.utime(left, (1e9, 1e9))
    save_worklist(tmp_path, worklist(1.0))
    assert not left.exists()
    assert busy.exists()  # another process may be writing it


def test_a_read_only_folder_gets_a_sentence_and_keeps_its_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_worklist(tmp_path, worklist(1.0))

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("DIANetLib.acwi.worklist.tempfile.mkstemp", refuse)
    with pytest.raises(OutputError, match=r"cannot be written: Permission denied\. Make the folder writable"):
        save_worklist(tmp_path, worklist(2.0, 1.0))
    assert load_worklist(tmp_path) == worklist(1.0)


def test_files_that_cannot_be_used_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no worklist .*regions\.json\. Segment the image first"):
        load_worklist(tmp_path)
    (tmp_path / "regions.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"regions\.json: The list of regions is not valid JSON"):
        load_worklist(tmp_path)
    (tmp_path / "regions.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read: it is not text"):
        load_worklist(tmp_path)
    with pytest.raises(OutputError, match=r"expected a name that ends in \.json"):
        save_worklist(tmp_path / "regions.txt", worklist(1.0))
    with pytest.raises(OutputError, match="No such file"):
        save_worklist(tmp_path / "missing" / "regions.json", worklist(1.0))


def test_a_list_of_version_1_is_still_read() -> None:
    table = regions_to_csv(worklist(1.0).regions).splitlines()
    header = table[0].removesuffix(",changed,reviewer")
    row = "1" + table[1].removesuffix(",,")[1:]
    assert header != table[0]
    assert regions_from_csv(f"{header}\n{row}\n") == worklist(1.0).regions
