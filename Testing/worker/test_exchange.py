# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from DIANetLib.errors import Cancelled, InputError, OutputError, WorkerError
from DIANetLib.volume import Volume
from DIANetLib.worker import exchange as module
from DIANetLib.worker.exchange import Exchange, owner_is_gone, remove_orphans
from DIANetLib.worker.processes import started
from Testing.conftest import make_geometry

GRID = make_geometry(3, (5, 4, 3))


@pytest.fixture
def exchange(tmp_path):
    exchange = Exchange.create(tmp_path)
    yield exchange
    exchange.close()


def volume(dtype="<f4", seed=0):
    array = np.random.default_rng(seed).uniform(0, 100, GRID.shape).astype(dtype)
    return Volume(array, GRID, "a name", "T1", "1.2.3")


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", "<i2", "<u2", "<i8", "|u1", "|i1"])
def test_a_volume_comes_back_bit_for_bit(exchange, dtype):
    before = volume(dtype)
    shared = exchange.write(before)
    assert shared.dtype == dtype
    assert os.listdir(exchange.folder).count(shared.file) == 1
    after = Exchange.open(exchange.folder).read(shared)
    np.testing.assert_array_equal(after.array, before.array)
    assert after.array.dtype == before.array.dtype
    assert after.geometry == before.geometry
    assert (after.name, after.modality, after.frame_of_reference) == ("a name", "T1", "1.2.3")


def test_a_whole_volume_is_mapped_and_cannot_be_written(exchange):
    after = exchange.read(exchange.write(volume()))
    assert isinstance(after.array, np.memmap)
    assert not after.array.flags.writeable


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a > 50,
        lambda a: a.astype(">i4"),
        lambda a: a.astype(np.longdouble),
        lambda a: np.asfortranarray(a),
        lambda a: a[:, ::-1],
    ],
)
def test_other_arrays_keep_their_values(exchange, make):
    array = make(volume().array)
    after = exchange.read(exchange.write(Volume(array, GRID)))
    np.testing.assert_array_equal(after.array, array)


def test_only_the_box_that_is_not_zero_is_written(exchange):
    array = np.zeros(GRID.shape, np.float32)
    array[1, 1:3, 2:5] = 0.5
    array[0, 0, 0] = 1e-7  # counts as zero
    shared = exchange.write(Volume(array, GRID), crop_zeros=True)
    assert shared.part == (2, 1, 1, 3, 2, 1)
    assert (exchange.folder / shared.file).stat().st_size == 4 * 6
    array[0, 0, 0] = 0
    np.testing.assert_array_equal(exchange.read(shared).array, array)


def test_negative_values_and_nan_are_not_taken_for_zero(exchange):
    array = np.zeros(GRID.shape, np.float32)
    array[2, 3, 4], array[0, 0, 1] = -0.5, np.nan
    shared = exchange.write(Volume(array, GRID), crop_zeros=True)
    np.testing.assert_array_equal(exchange.read(shared).array, array)


def test_a_volume_of_zeros_is_one_voxel_and_a_full_one_is_whole(exchange):
    empty = exchange.write(Volume(np.zeros(GRID.shape, np.float32), GRID), crop_zeros=True)
    assert empty.part == (0, 0, 0, 1, 1, 1)
    assert not exchange.read(empty).array.any()
    assert exchange.write(Volume(np.ones(GRID.shape, np.uint8), GRID), crop_zeros=True).part is None


def test_deleting_is_silent_and_closing_removes_the_folder(exchange):
    first, second = exchange.write(volume()), exchange.write(volume())
    exchange.delete(first, second)
    exchange.delete(first)
    exchange.delete(replace(first, file="../x"))
    assert os.listdir(exchange.folder) == ["owner.json"]
    exchange.close()
    assert not exchange.folder.exists()
    exchange.close()


def test_a_file_that_cannot_be_deleted_now_is_deleted_later(exchange, monkeypatch):
    shared = exchange.write(volume())
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
        exchange.delete(shared)
    assert (exchange.folder / shared.file).exists()
    exchange.delete()
    assert not (exchange.folder / shared.file).exists()


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_nobody_else_can_look_into_the_folder(exchange):
    assert stat.S_IMODE(exchange.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["", ".", "..", "../a.raw", "a/b.raw", "a\\b.raw", "C:a.raw", "a\0b"])
def test_no_name_leads_out_of_the_folder(exchange, name):
    shared = exchange.write(volume())
    with pytest.raises(WorkerError, match="is no name of an exchange file"):
        exchange.read(replace(shared, file=name))


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_a_link_is_not_followed(exchange, tmp_path):
    shared = exchange.write(volume())
    (exchange.folder / "link.raw").symlink_to(exchange.folder / shared.file)
    with pytest.raises(WorkerError, match="bytes, expected"):
        exchange.read(replace(shared, file="link.raw"))


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"file": "gone.raw"}, WorkerError, "Cannot read the exchange file gone.raw"),
        ({"size": (5, 4, 4)}, WorkerError, r"has 240 bytes, expected 320 for 5 × 4 × 4 voxels of <f4"),
        ({"size": (5, 4, 0)}, InputError, "three whole numbers of at least 1"),
        ({"spacing": (1.0, 0.0, 1.0)}, InputError, "spacing"),
        ({"dtype": "O"}, WorkerError, "no voxel type"),
        ({"dtype": ">f4"}, WorkerError, "no voxel type"),
        ({"dtype": "f4"}, WorkerError, "no voxel type"),
        ({"dtype": "<c8"}, WorkerError, "no voxel type"),
        ({"dtype": "("}, WorkerError, "no voxel type"),
        ({"direction": (1.0, 0.0)}, WorkerError, "has 2 numbers, expected 9"),
        ({"part": (0, 0, 0, 5, 4)}, WorkerError, "does not fit"),
        ({"part": (1, 0, 0, 5, 4, 3)}, WorkerError, "does not fit"),
        ({"part": (-1, 0, 0, 5, 4, 3)}, WorkerError, "does not fit"),
    ],
)
def test_a_message_that_does_not_fit_its_file_gets_a_sentence(exchange, changes, error, why):
    with pytest.raises(error, match=why):
        exchange.read(replace(exchange.write(volume()), **changes))


def test_a_full_disk_gets_a_sentence_and_leaves_nothing(exchange, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "_write_planes", full)
    with pytest.raises(OutputError, match=r"Cannot write 'a name' to .*No space left.*Make room"):
        exchange.write(volume())
    assert os.listdir(exchange.folder) == ["owner.json"]


def test_writing_can_be_stopped_between_planes(exchange):
    asked = []

    def check():
        asked.append(1)
        if len(asked) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        exchange.write(volume(), check=check)
    assert os.listdir(exchange.folder) == ["owner.json"]


def test_a_place_that_cannot_be_written_gets_a_sentence(tmp_path):
    with pytest.raises(OutputError, match="Cannot make a folder for exchanging images"):
        Exchange.create(tmp_path / "nowhere")
    with pytest.raises(WorkerError, match="does not exist"):
        Exchange.open(tmp_path / "nowhere")


def orphan(base, name="dianet-orphan"):
    """A folder whose owner has been killed."""
    code = (
        f"from pathlib import Path; from DIANetLib.worker.exchange import Exchange; import os;"
        f"print(Exchange.create(Path({str(base)!r})).folder.name, flush=True); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    (base / done.stdout.strip()).rename(base / name)
    (base / name / "left.raw").write_bytes(b"x")
    return base / name


def test_what_a_killed_client_has_left_is_removed_by_the_next(tmp_path):
    folder = orphan(tmp_path)
    assert owner_is_gone(folder)
    with_owner = Exchange.create(tmp_path)
    assert not folder.exists()
    assert with_owner.folder.is_dir()
    assert not owner_is_gone(with_owner.folder)
    assert remove_orphans(tmp_path) == 0
    assert with_owner.folder.is_dir()


def test_folders_of_others_are_left_alone(tmp_path):
    foreign = tmp_path / "dianet-foreign"  # no owner is named
    foreign.mkdir()
    damaged = tmp_path / "dianet-damaged"
    damaged.mkdir()
    (damaged / "owner.json").write_text("{")
    elsewhere = orphan(tmp_path, "dianet-elsewhere")
    owner = json.loads((elsewhere / "owner.json").read_text())
    (elsewhere / "owner.json").write_text(json.dumps({**owner, "machine": "another"}))
    other_name = orphan(tmp_path, "somebody-orphan")
    (tmp_path / "dianet-file").write_text("a file")
    assert remove_orphans(tmp_path) == 0
    assert all(path.exists() for path in (foreign, damaged, elsewhere, other_name))
    assert remove_orphans(tmp_path / "nowhere") == 0


def test_a_process_id_given_out_again_does_not_keep_an_orphan(tmp_path):
    folder = orphan(tmp_path)
    owner = json.loads((folder / "owner.json").read_text())
    assert started(os.getpid())
    (folder / "owner.json").write_text(json.dumps({**owner, "pid": os.getpid()}))
    assert remove_orphans(tmp_path) == 1
