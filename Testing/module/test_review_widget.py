# SPDX-License-Identifier: Apache-2.0
"""The section Review: judging, editing and finishing, by the panel's own buttons."""

from __future__ import annotations

import numpy as np
import pytest

from DIANetLib.acwi.corrections import read_correction
from DIANetLib.acwi.review import regions_to_json
from DIANetLib.volume import Volume
from DIANetLib.worker import protocol
from Testing.module.bootstrap import labels_on, read_bundle, save_bundle
from Testing.module.fake_client import HELLO
from Testing.module.panel_bench import GRID, finish, latest, places

pytest.importorskip("slicer_core", reason="needs slicer-core")


@pytest.fixture
def jumps(monkeypatch):
    from DIANetGui import Layers

    made = []
    monkeypatch.setattr(Layers, "jumpTo", lambda environment, point: made.append(point))
    monkeypatch.setattr(Layers, "outlineRegion", lambda environment, result, region: made.append(region))
    return made


@pytest.fixture
def segmented(panel, head, client, jumps):
    panel.ui.segmentButton.click()
    finish(client, regions=places())
    jumps.clear()
    return panel.logic.result


def states(panel):
    return [row[-1] for row in panel.ui.regionsTable.rows()]


def centres(jumps):
    return [point for point in jumps if isinstance(point, tuple)]


class TestList:
    def test_the_table_lists_the_regions_worst_first(self, panel, segmented):
        first = panel.ui.regionsTable.rows()[0]

        assert first == ["1", "Hippocampus left\u00a0/\nHippocampus right", "100", "40.0", "○ open"]

    def test_the_progress_line_counts_places_and_expected_error(self, panel, segmented):
        assert panel.ui.reviewLabel.text == "0 of 3 judged, 73 mm³ expected to be wrong still open."
        panel.ui.regionsTable.clickRow(0)
        panel.ui.acceptButton.click()

        assert panel.ui.reviewLabel.text == "1 of 3 judged, 33 mm³ expected to be wrong still open."

    def test_a_click_jumps_to_the_region_and_outlines_it(self, panel, segmented, jumps):
        panel.ui.regionsTable.clickRow(1)

        assert jumps[0] == places()[1].centre
        assert jumps[1].rank == 2

    def test_a_threshold_ranks_anew_once_the_slider_rests(self, panel, segmented, client):
        panel.ui.reviewThresholdSlider.setValue(0.4)
        panel.ui.reviewThresholdSlider.setValue(0.5)
        assert not any(isinstance(request, protocol.Review) for request in client.sent)
        panel.review._timer.fire()
        request = latest(client, protocol.Review)
        assert request.options.threshold == 0.5

        client.say(protocol.Result(request.id, protocol.Reviewed(regions_to_json(places()[1:2]))))
        assert len(panel.ui.regionsTable.rows()) == 1

    def test_a_judged_place_outlives_a_list_without_it(self, panel, segmented, client):
        panel.ui.regionsTable.clickRow(0)
        panel.ui.acceptButton.click()
        panel.ui.reviewThresholdSlider.setValue(0.9)
        panel.review._timer.fire()
        client.say(
            protocol.Result(latest(client, protocol.Review).id, protocol.Reviewed(regions_to_json(())))
        )

        assert states(panel) == ["✓ accepted"]

    def test_the_chosen_region_stays_chosen_when_the_list_changes(self, panel, segmented, jumps):
        panel.ui.regionsTable.clickRow(1)
        jumps.clear()
        panel.logic.review.judge(1, "accepted")

        assert panel.review.current().rank == 2
        assert states(panel)[0] == "✓ accepted"
        assert jumps == []

    def test_a_list_of_a_newer_version_is_told_in_the_panel_and_nothing_breaks(
        self, panel, segmented, slicerApp
    ):
        text = segmented.regions().replace('"schema_version":2', '"schema_version":99')
        segmented.segmentationNode.SetAttribute("DIANet.Regions", text)
        panel.review.update()
        panel.update()
        panel.ui.finishButton.click()

        assert "schema version 99" in panel.ui.reviewLabel.text
        assert panel.ui.regionsTable.rowCount == 0
        assert not panel.ui.nextButton.enabled
        assert len(slicerApp.errors) == 1
        assert "schema version 99" in slicerApp.errors[0]

    def test_without_a_result_nothing_can_be_clicked(self, panel):
        ui = panel.ui
        names = ("accept", "edit", "skip", "next", "previous", "reopen", "explainPlace", "finish")

        assert not any(getattr(ui, f"{name}Button").enabled for name in names)
        assert "Run a segmentation" in ui.reviewLabel.text


class TestJudging:
    def test_without_a_chosen_place_there_is_nothing_to_judge(self, panel, segmented):
        assert not panel.ui.acceptButton.enabled
        assert not panel.ui.editButton.enabled
        assert panel.ui.nextButton.enabled

    def test_accept_and_skip_go_on_to_the_next_open_place(self, panel, segmented, jumps):
        panel.ui.nextButton.click()
        panel.ui.acceptButton.click()
        panel.ui.skipButton.click()

        assert states(panel) == ["✓ accepted", "→ skipped", "○ open"]
        assert centres(jumps) == [region.centre for region in places()]

    def test_next_leaves_out_what_is_judged_and_begins_again_behind_the_last(self, panel, segmented):
        panel.ui.regionsTable.clickRow(1)
        panel.ui.acceptButton.click()
        assert panel.review.current().rank == 3
        panel.ui.nextButton.click()
        assert panel.review.current().rank == 1
        panel.ui.nextButton.click()

        assert panel.review.current().rank == 3

    def test_previous_goes_up_the_table_and_round(self, panel, segmented):
        panel.ui.previousButton.click()
        assert panel.review.current().rank == 3
        panel.ui.previousButton.click()

        assert panel.review.current().rank == 2

    def test_when_all_are_judged_finish_is_pointed_to(self, panel, segmented):
        panel.ui.nextButton.click()
        for _ in range(3):
            panel.ui.acceptButton.click()

        assert panel.ui.reviewLabel.text == "All 3 places are judged."
        assert "Click Finish" in panel.ui.reviewHintLabel.text
        assert not panel.ui.nextButton.enabled

    def test_a_judgement_can_be_taken_back(self, panel, segmented):
        panel.ui.regionsTable.clickRow(0)
        assert not panel.ui.reopenButton.enabled
        panel.ui.acceptButton.click()
        panel.ui.regionsTable.clickRow(0)
        panel.ui.reopenButton.click()

        assert states(panel)[0] == "○ open"
        assert panel.review.current().rank == 1

    def test_time_and_reviewer_are_kept_with_the_state(self, panel, segmented, slicerApp):
        panel.ui.reviewerEdit.type("  Ada   Lovelace ")
        panel.ui.nextButton.click()
        panel.ui.acceptButton.click()
        region = panel.logic.regions()[0]

        assert region.reviewer == "Ada Lovelace"
        assert region.changed
        assert slicerApp.settings["DIANet/Reviewer"] == "Ada Lovelace"

    def test_the_name_is_asked_for_once_and_judging_goes_on_without(self, panel, segmented):
        panel.ui.nextButton.click()
        panel.ui.acceptButton.click()
        assert "name" in panel.ui.reviewHintLabel.text
        panel.ui.acceptButton.click()

        assert panel.ui.reviewHintLabel.text == ""
        assert states(panel)[:2] == ["✓ accepted", "✓ accepted"]

    def test_shortcuts_work_only_while_the_module_is_shown(self, panel, segmented):
        from Testing.module.fakes.objects import QShortcut

        keys = {shortcut.keys: shortcut for shortcut in reversed(QShortcut.made)}
        keys["Ctrl+Down"].press()
        keys["Ctrl+Return"].press()
        panel.exit()
        keys["Ctrl+K"].press()
        keys["Ctrl+Up"].press()

        assert states(panel) == ["✓ accepted", "○ open", "○ open"]
        assert panel.review.current().rank == 2

    def test_states_survive_saving_and_loading_the_scene(self, panel, segmented, environment, tmp_path):
        panel.ui.reviewerEdit.type("Ada")
        panel.ui.nextButton.click()
        panel.ui.acceptButton.click()
        panel.ui.skipButton.click()
        save_bundle(environment, tmp_path / "scene.mrb")
        environment.scene.Clear(0)
        assert states(panel) == []
        read_bundle(environment, tmp_path / "scene.mrb")

        assert states(panel) == ["✓ accepted", "→ skipped", "○ open"]
        assert panel.logic.regions()[0].reviewer == "Ada"


class TestExplain:
    def test_a_place_is_explained_within_its_box(self, panel, segmented, client):
        panel.ui.regionsTable.clickRow(0)
        panel.ui.explainPlaceButton.click()
        request = latest(client, protocol.Explain)

        assert request.structures == ("hippocampus_left",)
        assert (request.region.lo, request.region.hi) == (places()[0].lo, places()[0].hi)
        assert sum(isinstance(r, protocol.Explain) for r in client.sent) == 1

    def explained(self, client):
        volume = client.exchange.write(Volume(np.full(GRID.shape, 0.5, np.float32), GRID))
        maps = (protocol.MapFile("gradcam", "hippocampus_left", volume),)
        client.say(protocol.Result(latest(client, protocol.Explain).id, protocol.Explained(maps)))

    def test_its_map_is_shown_and_says_that_it_is_of_one_place(self, panel, segmented, client):
        from DIANetGui.LayerKeys import LayerKey

        panel.ui.regionsTable.clickRow(0)
        panel.ui.explainPlaceButton.click()
        self.explained(client)
        key = LayerKey("gradcam", "hippocampus_left")

        assert panel.parameters.layer == key.id
        assert segmented.layerNode(key).GetName() == "Grad-CAM of Hippocampus left (one place)"
        assert segmented.isPart(key)

    def test_the_whole_structure_can_be_explained_afterwards(self, panel, segmented, client):
        from DIANetGui.LayerKeys import LayerKey

        panel.ui.regionsTable.clickRow(0)
        panel.ui.explainPlaceButton.click()
        self.explained(client)
        key = LayerKey("gradcam", "hippocampus_left")
        panel.logic.requestLayer(key)
        assert latest(client, protocol.Explain).region is None
        self.explained(client)

        assert segmented.layerNode(key).GetName() == "Grad-CAM of Hippocampus left"
        assert not segmented.isPart(key)

    def test_a_worker_that_is_gone_gets_a_sentence(self, panel, segmented, client, slicerApp):
        client.lose("The worker process was ended by SIGKILL.")
        slicerApp.processEvents()
        slicerApp.errors.clear()
        panel.ui.regionsTable.clickRow(0)
        panel.ui.explainPlaceButton.click()

        assert "can no longer be explained" in slicerApp.errors[0]


class TestEditing:
    @pytest.fixture
    def editing(self, panel, segmented, slicerApp):
        panel.ui.reviewerEdit.type("Ada")
        panel.ui.regionsTable.clickRow(0)
        panel.ui.editButton.click()
        return slicerApp

    def paint(self, slicerApp, where, segment="hippocampus_left", masked=True):
        """A stroke with Slicer's Segment Editor logic."""
        import slicer
        from vtk.util import numpy_support

        node = slicerApp.segmentEditor.node
        logic = slicer.vtkSlicerSegmentEditorLogic()
        logic.SetMRMLScene(slicerApp.environment.scene)
        logic.SetMRMLApplicationLogic(slicerApp.environment.applicationLogic)
        logic.SetSegmentEditorNode(node)
        if not masked:
            node.SetSourceVolumeIntensityMask(False)
        assert logic.ResetModifierLabelmapToDefault()
        modifier = logic.GetModifierLabelmap()
        numpy_support.vtk_to_numpy(modifier.GetPointData().GetScalars()).reshape(GRID.shape)[where] = 1
        modifier.Modified()
        add = slicer.vtkSlicerSegmentEditorLogic.ModificationModeAdd
        logic.ModifySegmentByLabelmap(node.GetSegmentationNode(), segment, modifier, add, True, False)

    def test_the_segment_editor_opens_on_the_place_with_the_brush(self, panel, segmented, editing):
        editor = editing.segmentEditor

        assert editing.module == "SegmentEditor"
        assert editor.node.GetSegmentationNode() is segmented.segmentationNode
        assert editor.node.GetSelectedSegmentID() in ("hippocampus_left", "hippocampus_right")
        assert editor.node.GetSourceVolumeIntensityMask()
        assert editor.activeEffect().name == "Paint"
        assert "Only place 1 can be edited" in editing.messages[-1]

    def test_the_views_keep_showing_the_image(self, panel, segmented, editing, head):
        editing.selectModule("DIANetSegmenter")

        assert editing.segmentEditor.shown == []
        assert editing.segmentEditor.autoShowSourceVolumeNode
        assert editing.segmentEditor.node.GetSourceVolumeNode() is head

    def test_the_copy_of_the_image_is_not_offered_as_an_input(self, panel, segmented, editing):
        source = editing.segmentEditor.node.GetSourceVolumeNode()
        editing.processEvents()

        assert source.GetID() in panel.ui.input1Selector.sortFilterProxyModel().hiddenNodeIDs
        assert source not in panel.inputs.volumes()

    def test_a_place_with_changes_becomes_corrected_when_the_user_comes_back(self, panel, segmented, editing):
        self.paint(editing, np.s_[:, :, :])
        editing.selectModule("DIANetSegmenter")
        region = panel.logic.regions()[0]

        assert (region.state, region.reviewer) == ("corrected", "Ada")
        assert "corrected" in panel.ui.reviewHintLabel.text
        assert states(panel)[0] == "✎ corrected"

    def test_the_edit_keys_lead_back_from_the_segment_editor(self, panel, segmented, editing):
        from Testing.module.fakes.objects import QShortcut

        for shortcut in list(QShortcut.made):
            if shortcut.keys == "Ctrl+E":
                shortcut.press()

        assert editing.module == "DIANetSegmenter"

    def test_a_place_without_changes_stays_open_and_it_is_said(self, panel, segmented, editing):
        editing.selectModule("DIANetSegmenter")

        assert panel.logic.regions()[0].state == "open"
        assert "Nothing was changed in place 1" in panel.ui.reviewHintLabel.text

    def test_changes_beyond_the_place_are_told(self, panel, segmented, editing):
        self.paint(editing, np.s_[0, 0, 0:3], masked=False)
        editing.selectModule("DIANetSegmenter")

        assert "3 voxels changed beyond the place (Hippocampus left)" in panel.ui.reviewHintLabel.text

    def test_the_box_gives_way_to_the_outline_of_the_place_until_the_user_comes_back(
        self, panel, segmented, editing, jumps
    ):
        assert jumps[-1] is None
        editing.selectModule("DIANetSegmenter")

        assert jumps[-1].rank == 1

    def test_an_edit_whose_beginning_cannot_be_read_is_ended_all_the_same(self, panel, segmented, editing):
        segmented.segmentationNode.SetAttribute("DIANet.Edit", "{}")
        editing.selectModule("DIANetSegmenter")

        assert not panel.logic.review.editing
        assert not editing.segmentEditor.node.GetSourceVolumeIntensityMask()
        assert editing.segmentEditor.autoShowSourceVolumeNode

    def test_another_place_can_be_edited_right_after(self, panel, segmented, editing):
        self.paint(editing, np.s_[:, :, :])
        editing.selectModule("DIANetSegmenter")
        panel.ui.nextButton.click()
        assert panel.review.current().rank == 2
        panel.ui.editButton.click()
        self.paint(editing, np.s_[:, :, :])
        editing.selectModule("DIANetSegmenter")

        assert states(panel) == ["✎ corrected", "✎ corrected", "○ open"]

    def test_a_list_that_comes_during_an_edit_waits_for_its_end(self, panel, segmented, slicerApp, client):
        panel.ui.reviewThresholdSlider.setValue(0.5)
        panel.review._timer.fire()
        panel.ui.regionsTable.clickRow(1)
        panel.ui.editButton.click()
        client.say(
            protocol.Result(
                latest(client, protocol.Review).id, protocol.Reviewed(regions_to_json(places()[:2]))
            )
        )
        assert len(panel.logic.regions()) == 3
        self.paint(slicerApp, np.s_[:, :, :])
        slicerApp.selectModule("DIANetSegmenter")

        assert [region.state for region in panel.logic.regions()] == ["open", "corrected"]

    def test_an_editor_that_cannot_be_opened_leaves_nothing_behind(
        self, panel, segmented, slicerApp, monkeypatch
    ):
        import slicer

        def fail(name):
            raise RuntimeError("no such module")

        nodes = slicerApp.environment.scene.GetNumberOfNodes()
        monkeypatch.setattr(slicer.util, "selectModule", fail)
        panel.ui.regionsTable.clickRow(0)
        panel.ui.editButton.click()

        assert "no such module" in slicerApp.errors[0]
        assert slicerApp.environment.scene.GetNumberOfNodes() == nodes
        assert panel.logic.review.edit is None

    def test_removing_the_segmentation_ends_the_edit(self, panel, segmented, editing, environment):
        environment.scene.RemoveNode(segmented.segmentationNode)
        names = [
            environment.scene.GetNthNodeByClass(n, "vtkMRMLScalarVolumeNode").GetName()
            for n in range(environment.scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode"))
        ]
        editing.selectModule("DIANetSegmenter")

        assert not any("being edited" in name for name in names)
        assert editing.segmentEditor.autoShowSourceVolumeNode
        assert not editing.segmentEditor.node.GetSourceVolumeIntensityMask()
        assert editing.errors == []

    def test_a_new_run_ends_the_edit_and_keeps_what_was_corrected_until_it_is_there(
        self, panel, segmented, editing, client
    ):
        self.paint(editing, np.s_[:, :, :])
        panel.ui.segmentButton.click()

        assert panel.logic.review.edit is None
        assert panel.logic.regions()[0].state == "corrected"

    def test_a_scene_saved_during_an_edit_is_put_right_when_it_is_loaded(
        self, panel, segmented, editing, environment, tmp_path
    ):
        self.paint(editing, np.s_[:, :, :])
        save_bundle(environment, tmp_path / "scene.mrb")
        environment.scene.Clear(0)
        read_bundle(environment, tmp_path / "scene.mrb")

        assert states(panel)[0] == "✎ corrected"
        assert panel.logic.review.edit is None
        assert "corrected" in panel.ui.reviewHintLabel.text

    def test_of_two_results_the_edited_one_gets_the_state(self, panel, segmented, editing, client, head):
        from DIANetGui.Results import Result

        self.paint(editing, np.s_[:, :, :])
        other = Result.create(
            panel.environment, "other", [head], answer_without_files(), labels_on(GRID), modalities=("T1",)
        )
        panel.parameters.result = other.segmentationNode
        assert panel.logic.result == other
        editing.selectModule("DIANetSegmenter")
        assert panel.logic.review.edit is None
        panel.parameters.result = segmented.segmentationNode

        assert states(panel)[0] == "✎ corrected"


def answer_without_files():
    from Testing.module.bootstrap import segmented

    return segmented(regions=regions_to_json(places()))


class TestFinish:
    @pytest.fixture
    def judged(self, panel, segmented, slicerApp, tmp_path):
        slicerApp.settings["chosen folder"] = str(tmp_path / "packages")
        panel.ui.reviewerEdit.type("Ada")
        panel.ui.nextButton.click()
        panel.ui.acceptButton.click()
        return slicerApp

    def test_the_package_is_written_where_the_user_says_and_it_is_told(self, panel, judged, tmp_path):
        panel.ui.commentEdit.text = "A case"
        panel.ui.finishButton.click()
        (folder,) = (tmp_path / "packages").iterdir()
        package = read_correction(folder)

        assert judged.errors == []
        assert (package.reviewer, package.comment) == ("Ada", "A case")
        assert [region.state for region in package.regions] == ["accepted", "open", "open"]
        assert str(folder) in judged.messages[-1]
        assert str(folder) in panel.ui.finishLabel.text
        assert judged.settings["DIANet/PackageFolder"] == str(tmp_path / "packages")
        assert panel.ui.commentEdit.text == ""

    def test_an_edit_that_is_going_on_is_ended_first(self, panel, judged):
        panel.ui.editButton.click()
        panel.ui.finishButton.click()

        assert panel.logic.review.edit is None

    def test_places_that_are_open_are_asked_about(self, panel, judged, tmp_path):
        judged.answer = False
        panel.ui.finishButton.click()

        assert "nobody has judged yet: 2" in judged.messages[-1]
        assert not (tmp_path / "packages").exists()

    def test_copies_of_the_images_are_optional_and_remembered(self, panel, judged, tmp_path):
        panel.ui.copyImagesCheckBox.setChecked(True)
        panel.ui.finishButton.click()
        (folder,) = (tmp_path / "packages").iterdir()

        assert read_correction(folder).copies == (folder / "image_1.nrrd",)
        assert judged.settings["DIANet/CopyImages"] == "yes"

    def test_without_a_name_it_says_so_and_puts_the_cursor_there(self, panel, judged, tmp_path):
        panel.ui.reviewerEdit.text = " "
        panel.ui.finishButton.click()

        assert "who reviewed" in judged.errors[0]
        assert panel.ui.reviewerEdit.focus
        assert not (tmp_path / "packages").exists()

    def test_a_name_typed_just_now_counts(self, panel, judged, tmp_path):
        panel.ui.reviewerEdit.text = "Grace"  # the cursor is still in the field
        panel.ui.finishButton.click()
        (folder,) = (tmp_path / "packages").iterdir()

        assert read_correction(folder).reviewer == "Grace"

    def test_nothing_happens_when_no_folder_is_chosen(self, panel, judged):
        judged.settings["chosen folder"] = ""
        panel.ui.finishButton.click()

        assert judged.errors == []
        assert not panel.ui.finishLabel.visible

    def test_with_nothing_judged_there_is_nothing_to_finish(self, panel, segmented, slicerApp):
        panel.ui.finishButton.click()

        assert "nothing to finish yet" in slicerApp.errors[0]

    def test_a_folder_that_cannot_be_written_is_told_and_nothing_is_lost(self, panel, judged, tmp_path):
        blocked = tmp_path / "a file"
        blocked.write_text("no folder")
        judged.settings["chosen folder"] = str(blocked)
        panel.ui.commentEdit.text = "A case"
        panel.ui.finishButton.click()

        assert len(judged.errors) == 1
        assert "Something went wrong" not in judged.errors[0]
        assert states(panel)[0] == "✓ accepted"
        assert panel.ui.commentEdit.text == "A case"
        judged.settings["chosen folder"] = str(tmp_path / "packages")
        panel.ui.finishButton.click()
        assert len(list((tmp_path / "packages").iterdir())) == 1

    def test_a_second_package_does_not_replace_the_first(self, panel, judged, tmp_path):
        panel.ui.finishButton.click()
        panel.ui.finishButton.click()

        assert len(list((tmp_path / "packages").iterdir())) == 2

    def test_the_name_of_the_last_time_is_there_again(self, panel, slicerApp, environment):
        from DIANetGui.Logic import Logic

        from Testing.module.fake_client import FakeClient, Later
        from Testing.module.fakes.application import Owner

        slicerApp.settings.update({"DIANet/Reviewer": "Ada", "DIANet/CopyImages": "yes"})
        logic = Logic(environment, FakeClient(), later=Later())
        again = slicerApp.importGui("Widget").Panel(Owner(), logic)

        assert again.ui.reviewerEdit.text == logic.review.reviewer == "Ada"
        assert again.ui.copyImagesCheckBox.checked
        again.cleanup()
        again._owner.removeObservers()


class TestNothingIsLost:
    """Segment puts a new result in the place of the current one, but not of one whose review is unsaved."""

    def again(self, panel, client):
        from DIANetGui.Results import Result

        panel.ui.segmentButton.click()
        finish(client, regions=places())
        return Result.all(panel.environment)

    def test_a_result_that_nobody_reviewed_is_replaced(self, panel, segmented, client):
        assert len(self.again(panel, client)) == 1

    def test_a_reviewed_result_is_kept_beside_the_new_one_and_it_is_said(
        self, panel, segmented, client, slicerApp
    ):
        panel.ui.nextButton.click()
        panel.ui.acceptButton.click()
        results = self.again(panel, client)

        assert len(results) == 2
        assert "kept beside the new result" in panel.ui.reviewHintLabel.text
        assert regions_of(results[0])[0].state == "accepted"
        assert any("kept beside the new result" in text for text in slicerApp.messages)

    def test_one_that_was_reviewed_while_the_run_went_on_is_kept_too(self, panel, segmented, client):
        panel.ui.segmentButton.click()
        panel.ui.nextButton.click()
        panel.ui.acceptButton.click()
        client.say(HELLO)
        finish(client, regions=places())
        from DIANetGui.Results import Result

        assert len(Result.all(panel.environment)) == 2

    def test_one_that_is_being_edited_when_the_run_ends_is_kept_too(self, panel, segmented, client):
        panel.ui.segmentButton.click()
        panel.ui.nextButton.click()
        panel.ui.editButton.click()
        finish(client, regions=places())
        from DIANetGui.Results import Result

        assert len(Result.all(panel.environment)) == 2
        assert panel.logic.review.edit is not None

    def test_an_edited_result_is_kept_as_well(self, panel, segmented, client):
        segmented.segmentationNode.GetSegmentation().RemoveSegment("hippocampus_left")

        assert len(self.again(panel, client)) == 2

    def test_one_whose_labels_cannot_be_compared_is_kept_too(self, panel, segmented, client):
        segmented.segmentationNode.SetAttribute("DIANet.Before", "{}")

        assert len(self.again(panel, client)) == 2

    def test_once_its_package_is_written_it_can_go(self, panel, segmented, client, slicerApp, tmp_path):
        slicerApp.settings["chosen folder"] = str(tmp_path)
        panel.ui.reviewerEdit.type("Ada")
        panel.ui.nextButton.click()
        panel.ui.acceptButton.click()
        panel.ui.finishButton.click()
        assert len(self.again(panel, client)) == 1

    def test_not_if_it_was_reviewed_on_after_its_package(self, panel, segmented, client, slicerApp, tmp_path):
        slicerApp.settings["chosen folder"] = str(tmp_path)
        panel.ui.reviewerEdit.type("Ada")
        panel.ui.nextButton.click()
        panel.ui.acceptButton.click()
        panel.ui.finishButton.click()
        panel.ui.skipButton.click()

        assert len(self.again(panel, client)) == 2


def regions_of(result):
    from DIANetLib.acwi.review import regions_from_json

    return regions_from_json(result.regions())


class TestTrafficLight:
    def test_the_lights_follow_the_limits_which_are_remembered(self, panel, segmented, slicerApp):
        assert "● green" in shown(panel)
        panel.ui.greenSpinBox.setValue(0.9)
        assert "● amber" in shown(panel)
        panel.ui.amberSpinBox.setValue(0.88)
        assert "● red" in shown(panel)

        assert slicerApp.settings["DIANet/LightGreen"] == 0.9
        assert slicerApp.settings["DIANet/LightAmber"] == 0.88

    def test_amber_never_begins_above_green(self, panel, segmented):
        panel.ui.greenSpinBox.setValue(0.5)
        assert panel.ui.amberSpinBox.value == 0.5
        panel.ui.amberSpinBox.setValue(0.8)

        assert panel.ui.greenSpinBox.value == 0.8

    @pytest.mark.parametrize("kept", ["often", 7, None])
    def test_a_setting_that_is_no_share_is_passed_over(self, slicerApp, environment, kept):
        from DIANetGui.Logic import Logic

        from Testing.module.fake_client import FakeClient, Later
        from Testing.module.fakes.application import Owner

        slicerApp.settings["DIANet/LightGreen"] = kept
        panel = slicerApp.importGui("Widget").Panel(Owner(), Logic(environment, FakeClient(), later=Later()))

        assert panel.quality.limits().green == 0.85
        panel.cleanup()
        panel._owner.removeObservers()


def shown(panel):
    """The result's text without its tags."""
    import re

    return re.sub(r"<[^>]+>", "", panel.ui.resultLabel.text).replace("&nbsp;", " ")
