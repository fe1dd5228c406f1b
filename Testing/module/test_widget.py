# SPDX-License-Identifier: Apache-2.0
"""The panel on a real MRML scene and the real logic, with stand-ins for Qt and for the worker."""

from __future__ import annotations

import numpy as np
import pytest

from DIANetLib.volume import Volume
from DIANetLib.worker import protocol
from Testing.module.bootstrap import labels_on, read_bundle, save_bundle
from Testing.module.fake_client import HELLO
from Testing.module.panel_bench import GRID, addVolume, answer, finish, latest, slicer_surface_name, state

pytest.importorskip("slicer_core", reason="needs slicer-core")


class TestStates:
    def test_without_a_volume_it_says_which_is_missing(self, panel):
        shown = state(panel)

        assert not shown.segment
        assert not shown.progress
        assert "T1" in shown.sentence

    def test_a_volume_that_appears_is_taken_and_segment_can_be_clicked(self, panel, head):
        shown = state(panel)

        assert panel.ui.input1Selector.currentNode() is head
        assert (shown.segment, shown.cancel, shown.sentence) == (True, False, "")

    def test_while_it_runs_only_cancel_can_be_clicked(self, panel, head, client):
        panel.ui.segmentButton.click()
        client.say(HELLO)

        shown = state(panel)
        assert (shown.segment, shown.cancel, shown.progress, shown.inputs) == (False, True, True, False)

    def test_progress_moves_with_its_stage_in_words(self, panel, head, client):
        panel.ui.segmentButton.click()
        client.say(HELLO)
        before = panel.ui.progressBar.value
        client.say(protocol.Progress(latest(client, protocol.Segment).id, "segment", 3, 4))

        assert panel.ui.progressBar.value > before
        assert panel.ui.progressBar.maximum == 100
        assert panel.ui.stageLabel.text.startswith("Segmenting")

    def test_after_a_run_it_can_run_again_and_shows_numbers(self, panel, head, client):
        panel.ui.segmentButton.click()
        finish(client)

        shown = state(panel)
        assert (shown.segment, shown.progress, shown.inputs) == (True, False, True)
        assert "Hippocampus left" in panel.ui.resultLabel.text
        assert "1.50 ml" in panel.ui.resultLabel.text
        assert panel.parameters.result is panel.logic.result.segmentationNode

    def test_cancelling_can_be_asked_for_once_and_leaves_no_trace(self, panel, head, client, slicerApp):
        panel.ui.segmentButton.click()
        client.say(HELLO)
        panel.ui.cancelButton.click()
        assert not state(panel).cancel
        client.say(protocol.Cancelled(latest(client, protocol.Segment).id))
        slicerApp.processEvents()

        assert state(panel).segment
        assert panel.logic.result is None
        assert slicerApp.errors == []

    def test_a_failure_is_told_with_its_remedy_and_the_next_click_works(self, panel, head, client, slicerApp):
        panel.ui.segmentButton.click()
        client.say(HELLO)
        request = latest(client, protocol.Segment)
        client.say(protocol.Failed(request.id, "device", "The memory is full.", "Choose the CPU."))
        assert slicerApp.errors == []  # not in the middle of the worker's signal
        slicerApp.processEvents()

        assert slicerApp.errors == ["The memory is full.\n\nChoose the CPU."]
        assert state(panel).segment
        panel.ui.segmentButton.click()
        finish(client)
        assert panel.logic.result is not None

    def test_a_lost_worker_is_told_and_the_next_click_starts_a_new_one(self, panel, head, client, slicerApp):
        panel.ui.segmentButton.click()
        client.say(HELLO)
        client.lose("The worker process was ended by SIGKILL.")
        slicerApp.processEvents()

        assert "SIGKILL" in slicerApp.errors[0]
        assert "does not run" in panel.ui.workerLabel.text
        starts = client.starts
        panel.ui.segmentButton.click()
        assert client.starts == starts + 1

    def test_two_quick_clicks_start_one_run(self, panel, head, client, slicerApp):
        panel.ui.segmentButton.click()
        panel.ui.segmentButton.emit("clicked()")  # as one that waited in the queue

        assert sum(isinstance(request, protocol.Segment) for request in client.sent) == 1
        assert slicerApp.errors == []

    def test_wrong_input_is_told_in_a_dialog(self, panel, environment, client, slicerApp):
        empty = environment.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
        panel.parameters.input1 = empty

        assert "no image data" in state(panel).sentence
        panel.ui.segmentButton.emit("clicked()")
        assert "no image data" in slicerApp.errors[0]
        assert client.sent == []

    def test_a_model_that_cannot_be_used_says_why(self, panel, head):
        panel.ui.modelSelector.choose("broken")

        assert "The weights are missing." in panel.ui.modelDescriptionLabel.text
        assert "The weights are missing." in state(panel).sentence
        assert not state(panel).segment

    def test_an_error_nobody_expected_is_told_too(self, panel, head, slicerApp, monkeypatch):
        def fail(settings):
            raise ZeroDivisionError("division by zero")

        monkeypatch.setattr(panel.logic, "segment", fail)
        panel.ui.segmentButton.click()

        assert "division by zero" in slicerApp.errors[0]
        assert "Copy report" in slicerApp.errors[0]


class TestInputs:
    def test_each_modality_has_a_selector_named_after_it(self, panel):
        panel.ui.modelSelector.choose("lesions")

        names = [panel.ui.input1Label.text, panel.ui.input2Label.text]
        visible = [getattr(panel.ui, f"input{n}Selector").visible for n in (1, 2, 3, 4)]
        assert names == ["T1:", "FLAIR:"]
        assert visible == [True, True, False, False]
        assert "optional" in panel.ui.input2Selector.noneDisplay

    def test_volumes_are_guessed_by_their_names(self, panel, environment, slicerApp):
        flair = addVolume(environment, slicerApp, "patient FLAIR")
        t1 = addVolume(environment, slicerApp, "patient T1")
        panel.ui.modelSelector.choose("lesions")

        assert panel.inputs.inputs() == {"T1": t1, "FLAIR": flair}

    def test_a_new_scene_begins_with_the_model_of_the_latest_run(self, panel, head, slicerApp):
        first = panel.parameters.model
        slicerApp.settings["DIANet/Model"] = "lesions"
        panel.parameters.model = ""
        assert panel.parameters.model == "lesions"

        panel.ui.modelSelector.choose(first)
        panel.ui.segmentButton.click()
        assert slicerApp.settings["DIANet/Model"] == first

    def test_a_volume_in_place_of_a_removed_one_is_guessed_anew(self, panel, environment, slicerApp):
        environment.scene.RemoveNode(addVolume(environment, slicerApp, "first T1"))
        second = addVolume(environment, slicerApp, "second T1")

        assert panel.parameters.input1 is second

    def test_an_input_that_was_emptied_stays_empty(self, panel, head):
        panel.ui.input1Selector.setCurrentNode(None)
        panel.exit()
        panel.enter()

        assert panel.parameters.input1 is None

    def test_the_description_says_what_the_model_expects(self, panel):
        text = panel.ui.modelDescriptionLabel.text

        assert all(part in text for part in ("Finds the hippocampus.", "T1", "CC-BY-SA-4.0", "3.6 MB"))

    def test_layers_of_results_are_not_offered_as_inputs(self, panel, head, client):
        panel.ui.segmentButton.click()
        finish(client)

        hidden = set(panel.ui.input1Selector.sortFilterProxyModel().hiddenNodeIDs)
        layer = panel.logic.result.layerNode(panel.logic.layerKeys()[0])
        assert layer.GetID() in hidden
        assert head.GetID() not in hidden

    def test_memory_is_estimated_once_per_choice_and_shown(self, panel, head, client):
        panel._timer.fire()
        request = latest(client, protocol.Estimate)
        client.say(HELLO)
        devices = (
            protocol.DeviceEstimate("cuda:0", "A card", 1_200_000_000, 22_000_000_000, (64, 64, 64), True),
            protocol.DeviceEstimate("cpu", "CPU", 2_000_000_000, None, (64, 64, 64), False),
        )
        client.say(protocol.Result(request.id, protocol.Estimated(devices)))

        assert panel.ui.memoryLabel.text == "A card: needs about 1.2 GB, 22.0 GB free."
        panel.ui.deviceSelector.choose("cpu")
        assert panel.ui.memoryLabel.text == "CPU: needs about 2.0 GB; that may not fit."
        assert panel.parameters.device == "cpu"
        assert not panel._timer.active

    def test_what_the_panel_says_reaches_the_worker(self, panel, head, client):
        panel.ui.samplesSlider.setValue(3)
        panel.ui.deviceSelector.choose("cpu")
        panel.ui.reviewThresholdSlider.setValue(0.5)
        panel.ui.segmentButton.click()

        request = latest(client, protocol.Segment)
        assert (request.samples, request.device, request.review.threshold) == (3, "cpu", 0.5)

    def test_no_samples_leave_their_number_to_the_model(self, panel, head, client):
        assert panel.parameters.samples == 0
        panel.ui.segmentButton.click()

        assert latest(client, protocol.Segment).samples is None


class TestLayers:
    @pytest.fixture
    def segmented(self, panel, head, client):
        panel.ui.segmentButton.click()
        finish(client)
        return panel.logic.result

    @pytest.fixture
    def shown(self, panel, monkeypatch):
        from DIANetGui import Layers

        calls = []
        real = Layers.showLayers

        def record(environment, result, keys, style=None, **options):
            calls.append(([key.id for key in keys], style))
            return real(environment, result, keys, style, **options)

        monkeypatch.setattr(Layers, "showLayers", record)
        return calls

    def test_all_layers_are_listed_by_their_names_after_none(self, panel, segmented):
        selector = panel.ui.layerSelector
        texts = [selector.itemText(n) for n in range(selector.count)]

        assert texts[0] == "None"
        assert texts[1] == "Total uncertainty (nats)"
        assert sum("Hippocampus left" in text for text in texts) == 2  # variance and Grad-CAM

    def test_the_total_uncertainty_of_a_new_result_is_shown(self, panel, shown, segmented):
        assert shown[-1][0] == ["total"]
        assert panel.ui.layerSelector.currentData == "total"

    def test_choosing_a_layer_shows_it(self, panel, shown, segmented):
        panel.ui.layerSelector.choose("variance:hippocampus_left")
        assert shown[-1][0] == ["variance:hippocampus_left"]

        panel.ui.layerSelector.choose("")
        assert shown[-1][0] == []

    def test_opacity_threshold_colours_and_legend_act_at_once(self, panel, shown, segmented):
        panel.ui.opacitySlider.setValue(0.25)
        panel.ui.thresholdSlider.setValue(0.5)
        panel.ui.legendCheckBox.setChecked(False)
        style = shown[-1][1]

        assert (style.opacity, style.threshold, style.legend) == (0.25, 0.5, False)
        names = [panel.ui.colorMapSelector.itemData(n) for n in range(panel.ui.colorMapSelector.count)]
        panel.ui.colorMapSelector.choose(names[-1])
        assert shown[-1][1].colorMap == names[-1]

    def test_what_has_not_changed_is_not_shown_anew(self, panel, shown, segmented):
        count = len(shown)
        panel.update()

        assert len(shown) == count

    def test_grad_cam_is_asked_for_once_and_shown_when_it_comes(self, panel, shown, segmented, client):
        panel.ui.layerSelector.choose("gradcam:hippocampus_left")
        panel.update()
        requests = [r for r in client.sent if isinstance(r, protocol.Explain)]
        assert [r.structures for r in requests] == [("hippocampus_left",)]
        assert state(panel).progress

        volume = client.exchange.write(Volume(np.zeros(GRID.shape, np.float32), GRID))
        maps = (protocol.MapFile("gradcam", "hippocampus_left", volume),)
        client.say(protocol.Result(requests[0].id, protocol.Explained(maps)))

        assert shown[-1][0] == ["gradcam:hippocampus_left"]
        assert not state(panel).progress

    def test_a_layer_that_could_not_be_had_is_not_left_chosen(self, panel, segmented, client, slicerApp):
        panel.ui.layerSelector.choose("gradcam:hippocampus_left")
        request = latest(client, protocol.Explain)
        client.say(protocol.Failed(request.id, "internal", "It broke."))
        slicerApp.processEvents()

        assert panel.ui.layerSelector.currentData == ""
        assert "It broke." in slicerApp.errors[0]

    def test_explaining_under_the_crosshair_chooses_that_structures_grad_cam(
        self, panel, segmented, client, environment
    ):
        scene = environment.scene
        crosshair = scene.GetSingletonNode("default", "vtkMRMLCrosshairNode")
        if crosshair is None:
            crosshair = scene.CreateNodeByClass("vtkMRMLCrosshairNode")
            crosshair.UnRegister(None)
            crosshair.SetSingletonTag("default")
            scene.AddNode(crosshair)
        inside = np.argwhere(labels_on(GRID).array == 2)[0][::-1]
        left, posterior, superior = GRID.index_to_world(inside)
        crosshair.SetCrosshairRAS(-left, -posterior, superior)
        panel.ui.explainButton.click()

        assert latest(client, protocol.Explain).structures == ("hippocampus_right",)
        assert panel.ui.layerSelector.currentData == "gradcam:hippocampus_right"

    def test_explaining_where_nothing_is_says_how_to_point(self, panel, segmented, slicerApp):
        panel.ui.explainButton.click()

        assert "Hold Shift" in slicerApp.errors[0]

    def test_few_surfaces_are_shown_at_once_and_can_be_hidden(self, panel, segmented):
        segmentation = segmented.segmentationNode.GetSegmentation()
        assert segmentation.ContainsRepresentation(slicer_surface_name())
        assert segmented.segmentationNode.GetDisplayNode().GetVisibility3D()

        panel.ui.surfacesCheckBox.setChecked(False)
        assert not segmented.segmentationNode.GetDisplayNode().GetVisibility3D()

    def test_a_second_run_replaces_the_result_unless_it_is_to_be_kept(
        self, panel, segmented, client, environment
    ):
        from DIANetGui.Results import Result

        panel.ui.segmentButton.click()
        finish(client)
        assert len(Result.all(environment)) == 1

        panel.ui.addResultCheckBox.setChecked(True)
        panel.ui.segmentButton.click()
        finish(client)
        assert len(Result.all(environment)) == 2

    def test_an_earlier_result_can_be_chosen_again(self, panel, segmented, client):
        panel.ui.addResultCheckBox.setChecked(True)
        panel.ui.segmentButton.click()
        finish(client)
        panel.ui.resultSelector.setCurrentNode(segmented.segmentationNode)

        assert panel.logic.result == segmented
        assert panel.ui.layerSelector.currentData == "total"


class TestScene:
    def test_removing_the_input_during_a_run_stops_it_and_says_so(
        self, panel, head, client, environment, slicerApp
    ):
        panel.ui.segmentButton.click()
        client.say(HELLO)
        environment.scene.RemoveNode(head)
        assert isinstance(client.sent[-1], protocol.Cancel)
        client.say(protocol.Cancelled(latest(client, protocol.Segment).id))
        slicerApp.processEvents()

        assert "removed from the scene" in slicerApp.errors[0]
        assert not state(panel).segment
        assert "T1" in state(panel).sentence

    def test_closing_the_scene_during_a_run_stops_it_quietly(
        self, panel, head, client, environment, slicerApp
    ):
        panel.ui.segmentButton.click()
        client.say(HELLO)
        environment.scene.Clear(0)
        client.say(protocol.Result(latest(client, protocol.Segment).id, answer(client)))
        slicerApp.processEvents()

        assert panel.logic.result is None
        assert environment.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
        assert panel.parameters is not None
        assert not state(panel).segment

    def test_removing_the_result_empties_layers_and_review(self, panel, head, client, environment):
        panel.ui.segmentButton.click()
        finish(client)
        environment.scene.RemoveNode(panel.logic.result.segmentationNode)

        assert panel.logic.result is None
        assert panel.ui.layerSelector.count == 1
        assert panel.ui.regionsTable.rowCount == 0
        assert not panel.ui.resultLabel.visible

    def test_a_saved_scene_brings_back_settings_result_and_layer(
        self, panel, head, client, environment, tmp_path
    ):
        panel.ui.samplesSlider.setValue(4)
        panel.ui.segmentButton.click()
        finish(client)
        panel.ui.layerSelector.choose("epistemic")
        path = tmp_path / "scene.mrb"
        save_bundle(environment, path)
        environment.scene.Clear(0)
        assert panel.logic.result is None

        read_bundle(environment, path)

        assert panel.parameters.samples == 4
        assert panel.ui.samplesSlider.value == 4
        assert panel.logic.result.record.model == "hippocampus"
        assert panel.ui.layerSelector.currentData == "epistemic"
        assert len(panel.ui.regionsTable.rows()) == 3

    def test_after_cleanup_nothing_reacts_any_more(self, panel, head, client):
        panel.cleanup()
        panel._owner.removeObservers()
        panel.ui.segmentButton.text = "untouched"
        panel.logic.runner.tell("state")

        assert client.ended == ["stop"]
        assert panel.parameters is None


class TestSetup:
    def test_without_torch_the_panel_opens_with_a_banner_and_segment_disabled(self, slicerApp, panel, head):
        slicerApp.versions.pop("torch")
        panel.enter()

        assert panel.ui.setupBanner.visible
        assert "torch 2.8" in panel.ui.setupBannerLabel.text
        assert not state(panel).segment
        assert "torch" in state(panel).sentence
        assert not panel.ui.setupSection.collapsed

    def test_what_is_there_is_said_with_its_version(self, slicerApp, panel):
        slicerApp.versions["monai"] = "1.4.0"
        panel.enter()
        lines = panel.ui.dependenciesLabel.text.split("<br>")

        assert "torch 2.8: ✓ 99.0" in lines
        assert "monai 1.5.1: <b>1.4.0</b>" in lines

    def test_nothing_is_installed_when_the_user_says_no(self, slicerApp, panel):
        slicerApp.versions.pop("monai")
        panel.enter()
        slicerApp.answer = False
        panel.ui.setupBannerButton.click()

        assert slicerApp.installed == []
        assert panel.ui.setupBanner.visible

    def test_after_the_installation_the_banner_goes(self, slicerApp, panel, head, monkeypatch):
        import slicer

        slicerApp.versions.pop("monai")
        panel.enter()
        monkeypatch.setattr(
            slicer.util, "pip_install", lambda arguments: slicerApp.versions.update(monai="1.5.1")
        )
        panel.ui.installButton.click()

        assert not panel.ui.setupBanner.visible
        assert state(panel).segment
        assert "installed" in slicerApp.messages[-1]

    def test_the_log_shows_what_the_worker_says(self, panel, head, client):
        panel.ui.segmentButton.click()
        client.onLog("one")
        client.onLog("two")

        assert panel.ui.logText.plainText.endswith("one\ntwo")

    def test_the_report_holds_versions_state_and_log(self, panel, head, client, slicerApp):
        panel.ui.segmentButton.click()
        client.onLog("a line")
        panel.ui.copyReportButton.click()

        text = slicerApp.clipboardText
        assert all(part in text for part in ("DIANet ", "Slicer 5.10.0", "torch: 99.0", "a line"))
        assert "State: starting" in text

    def test_check_shows_what_the_worker_found(self, panel, client):
        panel.ui.checkButton.click()
        client.say(HELLO)
        report = protocol.DoctorReport("All is well.", 0)
        client.say(protocol.Result(latest(client, protocol.Doctor).id, report))

        assert "All is well." in panel.ui.logText.plainText
