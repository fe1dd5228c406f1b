# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from DIANetLib.bundle_schema import LocaliserSpec, ModalitySpec
from DIANetLib.errors import BundleError, Cancelled, DependencyError, InputError
from DIANetLib.inference.prediction import Box
from DIANetLib.network.config import ReliablePathConfig
from DIANetLib.volume import Geometry
from DIANetLib.worker import loaded
from DIANetLib.worker.answers import Answers
from DIANetLib.worker.case import CaseOptions
from DIANetLib.worker.exchange import Exchange
from DIANetLib.worker.job import Job
from DIANetLib.worker.protocol import KEPT_RESULTS, ReviewOptions, Unload
from DIANetLib.worker.session import Session, _only_inside
from Testing.bundle.tiny import CONFIG, write_bundle
from Testing.worker.conftest import GRID

ONE = CaseOptions(samples=1)


def job():
    return Job(Unload("u"))


def segmented(session, model, image, name="s", options=ONE):
    return session.segment(name, str(model), [image], options, device="cpu", job=job())


def networks(session):
    return [held.model._networks for held in session._models._held.values()]


@pytest.fixture
def session():
    return Session()


def test_a_model_is_loaded_once(session, tiny, image):
    first = segmented(session, tiny, image)
    again = segmented(session, tiny, image)
    assert again.model is first.model
    assert again.model.network("cpu") is first.model.network("cpu")
    np.testing.assert_array_equal(
        again.case.prediction.uncertainty["total"].array, first.case.prediction.uncertainty["total"].array
    )


def test_optional_modalities_may_be_missing_from_a_request(session, image, tmp_path):
    config = CONFIG.model_copy(update={"modalities": 2}).model_dump(mode="json")
    specs = tuple(ModalitySpec(name=name, required=False) for name in ("FLAIR", "T1"))
    folder = write_bundle(tmp_path, network=config, modalities=specs)
    found = segmented(session, folder, image)  # its modality is T1
    assert found.case.prediction.missing_modalities == ("FLAIR",)
    maps, _ = session.explain("s", ["head"], job=job())
    assert maps["head"].array.shape == image.array.shape


def test_attention_and_path_are_given_by_models_that_have_the_blocks(session, tiny, image, tmp_path):
    options = replace(ONE, inner="available")
    plain = segmented(session, tiny, image, options=options).case
    assert (plain.inner.attention, plain.inner.path) == ({}, None)
    blocks = {"widths": (4, 6, 6), "blocks": (0, 0, 0), "strides": (2, 2), "deep_supervision": 1}
    config = CONFIG.model_copy(update={**blocks, "reliable_path": ReliablePathConfig()})
    folder = write_bundle(tmp_path, network=config.model_dump(mode="json"))
    shown = segmented(session, folder, image, options=options).case
    assert shown.inner.attention == {}
    assert shown.inner.path.names == ("full", "scale 1")
    assert "inner" in shown.prediction.timings


def test_the_latest_results_are_kept(session, tiny, image):
    for n in range(KEPT_RESULTS + 1):
        segmented(session, tiny, image, f"s{n}")
    with pytest.raises(InputError, match="does not have this result any more; it keeps the latest 3"):
        session.review("s0", ReviewOptions(), job=job())
    for n in range(1, KEPT_RESULTS + 1):
        session.review(f"s{n}", ReviewOptions(), job=job())


def test_reviewing_again_gives_what_segmenting_gave(session, tiny, image):
    options = replace(ONE, review=ReviewOptions(0.2, 1.0, 5))
    case = segmented(session, tiny, image, options=options).case
    assert case.regions
    assert session.review("s", options.review, job=job()) == case.regions
    assert session.review("s", ReviewOptions(0.2, 1.0, 1), job=job()) == case.regions[:1]


def test_a_model_whose_files_have_changed_is_loaded_anew(session, image, tmp_path):
    folder = write_bundle(tmp_path)
    first = segmented(session, folder, image)
    shutil.rmtree(folder)
    second = segmented(session, write_bundle(tmp_path, seed=1), image, "t")
    assert second.model is not first.model
    assert second.model.sha256 != first.model.sha256
    with pytest.raises(InputError, match=r"'tiny' has changed since this result was made.*Segment again"):
        session.explain("s", ["head"], job=job())
    session.explain("t", ["head"], job=job())


def test_a_localiser_whose_files_have_changed_is_loaded_anew(session, image, tmp_path):
    where = LocaliserSpec(model="where", structures=("head",), minimum_ml=0.0)
    folder = write_bundle(tmp_path, localiser=where)
    write_bundle(tmp_path, "where")
    held = session._models.load(str(folder))
    held.segmenter("cpu")
    assert session._models.load(str(folder)) is held
    shutil.rmtree(tmp_path / "where")
    write_bundle(tmp_path, "where", seed=1)
    assert session._models.load(str(folder)) is not held


def test_resting_lets_go_of_networks_but_not_of_results(session, tiny, image):
    segmented(session, tiny, image)
    before, _ = session.explain("s", ["tail"], job=job())
    session.rest()
    assert networks(session) == [{}]
    after, _ = session.explain("s", ["tail"], job=job())
    np.testing.assert_array_equal(after["tail"].array, before["tail"].array)


def test_unloading_forgets_everything(session, tiny, image):
    segmented(session, tiny, image)
    session.unload()
    assert networks(session) == []
    with pytest.raises(InputError, match="any more"):
        session.explain("s", ["tail"], job=job())
    segmented(session, tiny, image)


def test_only_some_models_stay_in_memory(session, image, tmp_path):
    for name in ("one", "two", "three", "four"):
        segmented(session, write_bundle(tmp_path, name), image, name)
    assert len(networks(session)) == 3
    session.explain("two", ["head"], job=job())


def test_a_cancelled_job_keeps_nothing(session, tiny, image):
    stopped = job()
    stopped.cancelled = True
    with pytest.raises(Cancelled):
        session.segment("s", str(tiny), [image], ONE, device="cpu", job=stopped)
    with pytest.raises(InputError, match="any more"):
        session.review("s", ReviewOptions(), job=job())


def test_a_part_of_a_structure_is_explained_by_itself_on_oblique_grids_too(session, tiny, image):
    turned = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    volume = replace(image, geometry=Geometry(GRID.size, GRID.spacing, GRID.origin, turned))
    labels = segmented(session, tiny, volume).case.prediction.labels
    at = np.argwhere(labels.array == 1)[0][::-1]
    centre = volume.geometry.index_to_world(at)
    box = Box(tuple(centre - 1.0), tuple(centre + 1.0))
    part, _ = session.explain("s", ["head"], region=box, job=job())
    whole, _ = session.explain("s", ["head"], job=job())
    assert not np.array_equal(part["head"].array, whole["head"].array)


def test_labels_outside_a_box_become_background(image):
    turned = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    geometry = Geometry(GRID.size, (0.7, 1.1, 2.0), GRID.origin, turned)
    labels = replace(image, geometry=geometry, array=np.ones(GRID.shape, np.uint8))
    middle = geometry.index_to_world([4, 6, 5])
    box = Box(tuple(middle - (3.0, 2.0, 4.0)), tuple(middle + np.array((2.0, 4.0, 3.0))))
    k, j, i = np.indices(GRID.shape)
    expected = box.contains(geometry.index_to_world(np.stack([i, j, k], axis=-1)))
    found = _only_inside(labels, box).array
    np.testing.assert_array_equal(found, expected)
    assert 0 < found.sum() < found.size
    far = Box((900.0, 900.0, 900.0), (901.0, 901.0, 901.0))
    assert not _only_inside(labels, far).array.any()


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "package 'torch' is not installed"),
        (OSError("libcudart.so: cannot open.\nmore"), r"cannot be loaded: libcudart\.so: cannot open\."),
        (ImportError(""), "cannot be loaded: ImportError"),
    ],
)
def test_a_package_that_cannot_be_imported_is_named(monkeypatch, error, why):
    class Finder:
        def find_spec(self, name, *_):
            if name in ("DIANetLib.inference.engine", "DIANetLib.acwi.explain"):
                raise error

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    for name in ("DIANetLib.inference.engine", "DIANetLib.acwi.explain"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for what in (loaded.import_engine, loaded.import_explain):
        with pytest.raises(DependencyError, match=why):
            what()


def test_models_can_be_listed_without_pydantic(session, monkeypatch):
    names = [model.name for model in session.models()]
    monkeypatch.setitem(sys.modules, "DIANetLib.bundle", None)
    assert [model.name for model in session.models()] == names


def test_a_model_with_other_weights_than_promised_is_listed_with_its_problem(session, monkeypatch, tmp_path):
    folder = write_bundle(tmp_path)
    file = folder / "models/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    monkeypatch.setenv("DIANET_MODELS", str(tmp_path))
    listed = {model.name: model for model in session.models()}
    assert listed["tiny"].problem is None  # the length is right
    listed = {model.name: model for model in session.models(verify=True)}
    assert "is not the file that the model was published with" in listed["tiny"].problem


def test_estimates_grow_with_the_image_and_shrink_with_a_region(session, tiny):
    def needed(size, **more):
        geometry = Geometry(size, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
        devices = session.estimate(str(tiny), geometry, **more)
        assert devices[-1].device == "cpu"
        assert devices[-1].fits
        return devices[-1].needed_bytes

    small, large = needed((40, 40, 40)), needed((200, 200, 200))
    assert small < large
    assert small < needed((200, 200, 200), roi=Box((10.0, 10.0, 10.0), (60.0, 60.0, 60.0))) < large
    assert needed((40, 40, 40), samples=0) <= small
    with pytest.raises(InputError, match="outside of the image"):
        needed((40, 40, 40), roi=Box((500.0, 0.0, 0.0), (501.0, 1.0, 1.0)))
    with pytest.raises(BundleError, match="no model 'nope'"):
        session.estimate("nope", GRID)


def test_idling_first_gets_ready_to_explain_and_then_lets_go(tmp_path):
    calls = []

    class Fake:
        def prepare_to_explain(self):
            calls.append("ready")

        def rest(self):
            calls.append("rest")

    answers = Answers(Exchange(tmp_path), Fake(), rest_s=60.0)
    for seconds in (0.5, 1.5, 2.0, 59.0, 60.5, 61.0, 600.0, 0.5, 61.0):
        answers.idle(seconds)
    assert calls == ["ready", "ready", "ready", "rest", "rest"]


def test_getting_ready_to_explain_waits_for_a_result_and_is_done_once(session, tiny, image):
    session.prepare_to_explain()
    assert session._ahead is None
    segmented(session, tiny, image)
    session.prepare_to_explain()
    thread = session._ahead
    session.prepare_to_explain()
    assert session._ahead is thread
    thread.join(60)
