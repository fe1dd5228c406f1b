# SPDX-License-Identifier: Apache-2.0
"""What the module does, on a real MRML scene and with a client that says what a test wants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from DIANetLib.acwi.review import find_regions, regions_to_json
from DIANetLib.errors import Cancelled, InputError, WorkerError
from DIANetLib.volume import Volume
from DIANetLib.worker import protocol
from Testing.module.bootstrap import STRUCTURES, all_items, all_nodes, geometry, labels_on, segmented
from Testing.module.fake_client import HELLO, FakeClient, Later

pytest.importorskip("slicer_core", reason="needs slicer-core")

MODEL = protocol.ModelInfo(
    "hippocampus", "/models/hippocampus", modalities=(protocol.ModalityInfo("T1"),), structures=STRUCTURES
)
GRID = geometry()


@pytest.fixture
def client():
    return FakeClient()


@pytest.fixture
def logic(environment, client):
    from DIANetGui.Logic import Logic

    return Logic(environment, client, later=Later())


@pytest.fixture
def head(environment):
    from DIANetGui.Nodes import nodeFromVolume

    array = np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32)
    return nodeFromVolume(environment, Volume(array, GRID), "Head")


def settings(head, **changes):
    from DIANetGui.Settings import Settings

    return Settings(**{"model": MODEL, "inputs": {"T1": head}, **changes})


def answer(client, structures=STRUCTURES, kinds=("total", "error", "variance"), **changes):
    """What a worker sends for the latest request: labels, maps, and their files."""
    labels = labels_on(GRID)
    file = client.exchange.write(labels)
    maps = []
    for kind in kinds:
        for key in [s.key for s in structures] if kind in ("variance", "gradcam") else [None]:
            values = np.where(labels.array > 0, 0.4, 0).astype(np.float32)
            maps.append(protocol.MapFile(kind, key, client.exchange.write(Volume(values, GRID))))
    return segmented(structures, labels=file, maps=tuple(maps), **changes)


def segment(logic, client, head, **changes):
    """A finished segmentation."""
    logic.segment(settings(head, **changes))
    if not logic.runner.greeted:
        client.say(HELLO)
    request = client.sent[-1]
    client.say(protocol.Result(request.id, answer(client)))
    return request


def test_the_request_holds_the_volume_and_what_the_panel_says(logic, client, head):
    logic.segment(settings(head, samples=3, seed=7, device="cpu"))

    request = client.sent[-1]
    volume = client.exchange.read(request.volumes[0])
    assert (request.model, request.samples, request.seed, request.device) == (MODEL.path, 3, 7, "cpu")
    assert volume.geometry.same_grid(GRID)
    assert volume.modality == "T1"
    assert request.explain == ("all",)


def test_the_answer_becomes_nodes_and_the_current_result(logic, client, head, environment):
    told = []
    logic.addListener(told.append)
    segment(logic, client, head)

    assert told[-1] == "result"
    assert logic.lastOutcome == "done"
    assert logic.result.segmentationNode.GetSegmentation().GetNumberOfSegments() == 3
    assert [key.id for key in logic.layerKeys()][:2] == ["total", "error"]
    assert logic.result.inputNodes() == (head,)


def test_attention_and_paths_become_layers_beside_the_uncertainty(logic, client, head):
    from DIANetGui.Wording import resultText

    logic.segment(settings(head))
    client.say(HELLO)
    payload = answer(client, kinds=("total", "attention", "path"), paths=("full", "scale 1"))
    client.say(protocol.Result(client.sent[-1].id, payload))

    assert [key.id for key in logic.layerKeys()][:3] == ["total", "attention", "path"]
    assert logic.result.record.paths == ("full", "scale 1")
    assert "Reliable path: 1 full, 2 scale 1" in resultText(logic.result.record)


@pytest.mark.parametrize(
    ("required", "text"),
    [
        ((True, True), "Needs T1, FLAIR"),
        ((True, False), "Needs T1, takes FLAIR too"),
        ((False, False), "Takes any of T1, FLAIR"),
    ],
)
def test_a_models_text_says_which_volumes_it_can_do_without(required, text):
    from DIANetGui.Wording import modelText

    modalities = tuple(map(protocol.ModalityInfo, ("T1", "FLAIR"), required))
    assert text in modelText(replace(MODEL, modalities=modalities))


def test_only_models_that_segment_are_offered(logic, monkeypatch):
    from DIANetGui import Logic as module

    classifier = replace(MODEL, name="chest", structures=(), classes=("No finding", "Pneumonia"))
    broken = replace(MODEL, name="broken", structures=(), problem="its weights are missing.")
    monkeypatch.setattr(module, "read_catalogue", lambda: (MODEL, classifier, broken))
    assert [model.name for model in logic.models()] == ["hippocampus", "broken"]


def test_all_files_of_a_run_are_deleted_once_they_are_nodes(logic, client, head):
    segment(logic, client, head)

    assert sorted(client.exchange.deleted) == sorted(client.exchange.volumes)


def test_grad_cam_can_be_had_of_every_structure_while_the_worker_keeps_the_result(logic, client, head):
    segment(logic, client, head)
    assert [key.id for key in logic.layerKeys() if key.kind == "gradcam"] == [
        f"gradcam:{s.key}" for s in STRUCTURES
    ]

    client.lose("The worker has ended.")

    assert [key for key in logic.layerKeys() if key.kind == "gradcam"] == []


def test_a_layer_that_is_asked_for_comes_with_the_workers_answer(logic, client, head):
    from DIANetGui.Results import LayerKey

    request = segment(logic, client, head)
    key = LayerKey("gradcam", "hippocampus_left")
    told = []
    logic.addListener(told.append)
    logic.requestLayer(key)
    asked = client.sent[-1]
    assert (asked.result, asked.structures, asked.region) == (request.id, ("hippocampus_left",), None)
    assert logic.busy

    shared = client.exchange.write(Volume(np.ones(GRID.shape, np.float32), GRID))
    client.say(
        protocol.Result(asked.id, protocol.Explained((protocol.MapFile("gradcam", key.structure, shared),)))
    )

    assert logic.result.layerNode(key) is not None
    assert told[-1] == "layers"
    assert shared.file in client.exchange.deleted


def test_a_layer_that_is_there_is_told_at_once(logic, client, head):
    from DIANetGui.Results import LayerKey

    segment(logic, client, head)
    sent, told = len(client.sent), []
    logic.addListener(told.append)

    logic.requestLayer(LayerKey("total"))

    assert told == ["layers"]
    assert len(client.sent) == sent


def test_what_can_no_longer_be_explained_gets_a_sentence(logic, client, head):
    from DIANetGui.Results import LayerKey

    segment(logic, client, head)
    client.lose("The worker has ended.")

    with pytest.raises(InputError, match=r"can no longer be explained.*Click Segment again"):
        logic.requestLayer(LayerKey("gradcam", "hippocampus_left"))


class TestManyStructures:
    STRUCTURES = tuple(
        replace(STRUCTURES[0], value=n, key=f"part_{n}", name=f"Part {n}") for n in range(1, 12)
    )

    @pytest.fixture
    def shown(self, logic, client, head):
        model = replace(MODEL, structures=self.STRUCTURES)
        logic.segment(settings(head, model=model))
        client.say(HELLO)
        client.say(protocol.Result(client.sent[-1].id, answer(client, self.STRUCTURES)))
        return logic

    def test_layers_per_structure_are_not_computed_beforehand(self, shown, client):
        assert client.sent[0].explain == ()
        assert set(shown.result.record.layers) == {"total", "error"}

    def test_but_all_can_be_chosen(self, shown):
        kinds = [key.kind for key in shown.layerKeys()]

        assert kinds.count("variance") == kinds.count("gradcam") == 11

    def test_a_variance_map_waits_in_its_file_until_it_is_chosen(self, shown, client):
        from DIANetGui.Results import LayerKey

        waiting = len(client.exchange.volumes) - len(client.exchange.deleted)
        shown.requestLayer(LayerKey("variance", "part_3"))

        assert waiting == 11
        assert shown.result.layerNode(LayerKey("variance", "part_3")) is not None
        assert len(client.exchange.volumes) - len(client.exchange.deleted) == 10

    def test_waiting_files_go_with_the_scene(self, shown, client):
        shown.sceneClosed()

        assert len(client.exchange.volumes) == len(client.exchange.deleted)
        assert shown.result is None

    def test_all_layers_come_with_one_request(self, shown, client):
        shown.requestAllLayers()

        assert len(shown.result.record.layers) == 2 + 11
        assert client.sent[-1].structures == tuple(s.key for s in self.STRUCTURES)


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"model": None}, "Choose a model"),
            ({"inputs": {}}, "Choose the T1 volume"),
            ({"model": replace(MODEL, problem="its weights are missing.")}, "weights are missing"),
        ],
    )
    def test_gets_a_sentence_and_starts_nothing(self, logic, client, head, changes, sentence):
        with pytest.raises(InputError, match=sentence):
            logic.segment(settings(head, **changes))

        assert client.starts == 0
        assert not logic.busy

    def test_an_empty_volume_gets_a_sentence(self, logic, environment):
        empty = environment.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")

        assert "Empty has no image data" in logic.whatIsMissing(settings(empty))

    def test_a_volume_chosen_twice_gets_a_sentence(self, logic, head):
        two = replace(MODEL, modalities=(protocol.ModalityInfo("T1"), protocol.ModalityInfo("T2")))

        assert "chosen twice" in logic.whatIsMissing(
            settings(head, model=two, inputs={"T1": head, "T2": head})
        )

    def test_an_optional_volume_may_stay_empty(self, logic, client, head):
        model = replace(MODEL, modalities=(protocol.ModalityInfo("T1"), protocol.ModalityInfo("T2", False)))
        assert logic.whatIsMissing(settings(head, model=model)) == ""

        logic.segment(settings(head, model=model))
        assert [volume.modality for volume in client.sent[-1].volumes] == ["T1"]

    def test_a_model_of_optional_volumes_needs_one_of_them(self, logic, head):
        two = tuple(protocol.ModalityInfo(name, False) for name in ("T1", "T2"))
        model = replace(MODEL, modalities=two)

        assert "at least one of T1, T2" in logic.whatIsMissing(settings(head, model=model, inputs={}))
        assert logic.whatIsMissing(settings(head, model=model, inputs={"T2": head})) == ""

    def test_a_region_of_interest_that_is_not_placed_gets_a_sentence(self, logic, client, head, environment):
        roi = environment.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")

        with pytest.raises(InputError, match="Box is not placed"):
            logic.segment(settings(head, roi=roi))
        assert client.starts == 0

    def test_a_second_click_is_refused(self, logic, client, head):
        logic.segment(settings(head))

        assert "A run is going on" in logic.whatIsMissing(settings(head))
        with pytest.raises(InputError, match="A run is going on"):
            logic.segment(settings(head))
        assert len(client.sent) == 1
        assert client.exchange.deleted == []

    def test_a_request_that_cannot_be_sent_leaves_no_file(self, logic, client, head):
        logic.runner.start()
        client.send = lambda request: (_ for _ in ()).throw(WorkerError("The worker is gone."))

        with pytest.raises(WorkerError):
            logic.segment(settings(head))

        assert sorted(client.exchange.deleted) == sorted(client.exchange.volumes)
        assert not logic.busy


def contents(environment):
    """All nodes and items; a colour table, once made, stays for the next result."""
    return [node for node in all_nodes(environment) if "ColorTable" not in node], all_items(environment)


class TestTheSceneIsAsItWas:
    @pytest.fixture
    def before(self, environment, head):
        return contents(environment)

    def test_after_a_cancellation(self, logic, client, head, environment, before):
        logic.segment(settings(head))
        client.say(HELLO)
        logic.cancel()
        client.say(protocol.Cancelled(client.sent[0].id))

        assert contents(environment) == before
        assert logic.lastOutcome == "cancelled"

    def test_after_a_lost_worker(self, logic, client, head, environment, before):
        logic.segment(settings(head))
        client.say(HELLO)
        client.lose("The worker has ended.")

        assert contents(environment) == before

    def test_when_a_map_cannot_be_read(self, logic, client, head, environment, before):
        logic.segment(settings(head))
        client.say(HELLO)
        payload = answer(client)
        del client.exchange.volumes[payload.maps[1].volume.file]
        client.say(protocol.Result(client.sent[-1].id, payload))

        assert contents(environment) == before
        assert logic.lastOutcome == "failed"
        assert logic.result is None

    def test_when_a_replacement_fails_the_earlier_result_stays(self, logic, client, head, environment):
        segment(logic, client, head)
        earlier = logic.result
        before = contents(environment)
        logic.segment(settings(head, replace=earlier))
        payload = answer(client)
        del client.exchange.volumes[payload.maps[0].volume.file]
        client.say(protocol.Result(client.sent[-1].id, payload))

        assert contents(environment) == before
        assert logic.result is earlier


def test_a_replacement_takes_the_place_and_the_name(logic, client, head, environment):
    from DIANetGui.Results import Result

    segment(logic, client, head)
    earlier, name = logic.result, logic.result.name
    segment(logic, client, head, replace=earlier)

    assert not earlier.exists
    assert [result.name for result in Result.all(environment)] == [name]


def test_an_added_result_stands_beside_the_first(logic, client, head, environment):
    from DIANetGui.Results import Result

    segment(logic, client, head)
    segment(logic, client, head)

    assert len({result.name for result in Result.all(environment)}) == 2


class TestEventsOfTheScene:
    def test_removing_the_input_stops_the_run_and_says_so(self, logic, client, head, environment):
        logic.segment(settings(head))
        client.say(HELLO)
        logic.inputRemoved(head)
        assert client.sent[-1].target == client.sent[0].id
        client.say(protocol.Cancelled(client.sent[0].id))

        assert "The volume Head was removed" in str(logic.lastError)

    def test_removing_another_volume_does_not(self, logic, client, head, environment):
        logic.segment(settings(head))
        logic.inputRemoved(environment.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"))

        assert len(client.sent) == 1

    def test_closing_the_scene_stops_the_run_without_a_word(self, logic, client, head):
        logic.segment(settings(head))
        client.say(HELLO)
        logic.sceneClosed()
        client.say(protocol.Cancelled(client.sent[0].id))

        assert logic.lastError is None
        assert not logic.busy

    def test_an_answer_that_comes_after_the_scene_was_closed_is_thrown_away(
        self, logic, client, head, environment
    ):
        logic.segment(settings(head))
        client.say(HELLO)
        request = client.sent[0]
        logic.sceneClosed()
        environment.scene.Clear(0)
        client.say(protocol.Result(request.id, answer(client)))

        assert environment.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
        assert sorted(client.exchange.deleted) == sorted(client.exchange.volumes)

    def test_removing_the_segmentation_ends_its_being_the_current_result(self, logic, client, head):
        segment(logic, client, head)
        logic.resultRemoved()

        assert logic.result is None
        assert logic.layerKeys() == ()


class TestReview:
    @pytest.fixture
    def reviewed(self, logic, client, head):
        segment(logic, client, head)
        labels = labels_on(GRID)
        error = np.where(labels.array == 1, 0.4, 0.0).astype(np.float32)
        structures = [s for s in logic.result.record.structures if s.value != 5]
        from DIANetGui.Messages import structureOf

        regions = find_regions(Volume(error, GRID), labels, [structureOf(s) for s in structures])
        logic.result.setRegions(regions_to_json(regions))
        return logic

    def test_what_was_said_of_a_region_is_kept_in_the_scene(self, reviewed):
        told = []
        reviewed.addListener(told.append)
        reviewed.review.judge(1, "accepted")

        assert reviewed.regions()[0].state == "accepted"
        assert told == ["regions"]

    def test_ranking_anew_asks_the_worker_and_keeps_what_was_said(self, reviewed, client):
        reviewed.review.judge(1, "accepted")
        kept = reviewed.regions()[0]
        other = replace(kept, rank=1, centre=(0.0, 0.0, 0.0), state="open")

        reviewed.review.find(protocol.ReviewOptions(threshold=0.2))
        request = client.sent[-1]
        text = regions_to_json([other, replace(kept, rank=2, state="open")])
        client.say(protocol.Result(request.id, protocol.Reviewed(text)))

        assert request.options.threshold == 0.2
        assert [region.state for region in reviewed.regions()] == ["open", "accepted"]

    def test_without_the_worker_it_is_done_from_the_nodes(self, reviewed, client):
        client.lose("The worker has ended.")
        sent = len(client.sent)

        reviewed.review.find(protocol.ReviewOptions(threshold=0.35))
        assert len(reviewed.regions()) > 0
        reviewed.review.find(protocol.ReviewOptions(threshold=0.9))
        assert reviewed.regions() == ()
        assert len(client.sent) == sent

    def test_an_option_out_of_range_gets_a_sentence(self, reviewed, client):
        client.lose("The worker has ended.")

        with pytest.raises(InputError, match="threshold is 2"):
            reviewed.review.find(protocol.ReviewOptions(threshold=2.0))

    def test_a_result_without_its_error_volume_gets_a_sentence(self, reviewed, client, environment):
        from DIANetGui.Results import LayerKey

        client.lose("The worker has ended.")
        environment.scene.RemoveNode(reviewed.result.layerNode(LayerKey("error")))

        with pytest.raises(InputError, match="error probability volume"):
            reviewed.review.find(protocol.ReviewOptions())


class TestEstimate:
    def test_asks_for_the_grid_as_it_lies_in_the_world(self, logic, client, head):
        logic.estimate(settings(head))
        client.say(HELLO)
        request = client.sent[-1]
        cpu = protocol.DeviceEstimate("cpu", "CPU", 10, 20, (16, 16, 16), True)
        client.say(protocol.Result(request.id, protocol.Estimated((cpu,))))

        assert (request.size, request.spacing) == (GRID.size, GRID.spacing)
        assert logic.estimated == (cpu,)
        assert not logic.busy

    def test_asks_nothing_without_a_volume(self, logic, client):
        logic.estimate(settings(None))

        assert client.starts == 0


class TestFromAScript:
    @pytest.fixture
    def known(self, logic, monkeypatch):
        monkeypatch.setattr(logic, "_models", (MODEL,))
        return logic

    def test_it_waits_for_the_result_and_returns_it(self, known, client, head):
        client.script = [
            lambda: client.say(HELLO),
            lambda: client.say(protocol.Result(client.sent[-1].id, answer(client))),
        ]

        assert known.segmentNode(head, "hippocampus") is known.result

    def test_an_error_is_raised(self, known, client, head):
        client.script = [
            lambda: client.say(protocol.Failed(client.sent[-1].id, "input", "The image is flat."))
        ]

        with pytest.raises(InputError, match="flat"):
            known.segmentNode(head)

    def test_a_cancellation_is_raised(self, known, client, head):
        client.script = [lambda: client.say(protocol.Cancelled(client.sent[-1].id))]

        with pytest.raises(Cancelled):
            known.segmentNode(head)

    def test_too_long_a_wait_stops_the_run(self, known, client, head):
        with pytest.raises(WorkerError, match="not answered"):
            known.segmentNode(head, seconds=0.0)

        assert isinstance(client.sent[-1], protocol.Cancel)

    def test_an_unknown_model_gets_the_names_of_those_there_are(self, known, head):
        with pytest.raises(InputError, match="There is no model liver; there are: hippocampus"):
            known.segmentNode(head, "liver")


def test_ranking_anew_from_the_nodes_is_quick_and_follows_edits(logic, client, head, monkeypatch):
    from DIANetLib.acwi import worklist

    segment(logic, client, head)
    client.lose("The worker has ended.")
    made = []
    real = worklist.RegionFinder
    monkeypatch.setattr(worklist, "RegionFinder", lambda *of: made.append(of) or real(*of))
    for threshold in (0.2, 0.3, 0.35):
        logic.review.find(protocol.ReviewOptions(threshold=threshold))
    assert len(made) == 1

    logic.result.segmentationNode.GetSegmentation().RemoveSegment("hippocampus_left")
    logic.review.find(protocol.ReviewOptions(threshold=0.3))
    assert len(made) == 2
    assert all("hippocampus_left" not in region.structures for region in logic.regions())
