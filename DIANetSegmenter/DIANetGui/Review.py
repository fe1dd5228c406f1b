# SPDX-License-Identifier: Apache-2.0
"""What the section Review does: judge the places of the current result, correct them, look for them anew.

Without Qt; what is listed lies with the result in the scene.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from DIANetLib.errors import InputError
from DIANetLib.worker import protocol
from DIANetLib.worker.protocol import BoxLPS, ReviewOptions

from .Editing import Edit, Outcome, beginEdit, editOf, edits, endEdit
from .LayerKeys import LayerKey
from .Messages import structureOf
from .Runner import newId
from .Translate import tr as _

if TYPE_CHECKING:
    import numpy as np

    from DIANetLib.acwi.review import Region, State
    from DIANetLib.acwi.worklist import RegionFinder, Worklist
    from DIANetLib.volume import Volume

    from .Results import Result

__all__ = ["STARTED_ATTRIBUTE", "Review", "worklistOf"]

STARTED_ATTRIBUTE = "DIANet.ReviewStarted"


class Review:
    """The review of the logic's current result.

    Args:
        logic: The logic that it is part of.

    Attributes:
        reviewer: Who judges; may be empty.
    """

    def __init__(self, logic: Any) -> None:
        self._logic = logic
        self._waiting: tuple[Result, str] | None = None  # a list that came during an edit
        self._finder: tuple[RegionFinder, Volume, Volume] | None = None  # with what it was made of
        self.reviewer = ""

    # --- the worklist ---

    def worklist(self) -> Worklist:
        """The places of the current result, the worst first, with what was said of them.

        Raises:
            InputError: What the scene holds of them cannot be read.
        """
        return worklistOf(self._logic.result)

    def judge(self, rank: int, state: State) -> None:
        """Note what the reviewer says of a place; `"open"` takes it back (event `"regions"`).

        Raises:
            InputError: There is no such place, or no such state.
        """
        result = self._result()
        _keep(result, self.worklist().with_state(rank, state, reviewer=self.reviewer))
        self._logic.runner.tell("regions")

    def find(self, options: ReviewOptions) -> None:
        """Look for places again (event `"regions"`); what was judged stays judged.

        The worker does it while it has the result, else it is done here, from the nodes.

        Raises:
            DIANetError: The options are out of range, or the result lacks what is needed.
        """
        result, logic = self._logic.result, self._logic
        if result is None:
            return
        if logic.canExplain(result) and not logic.busy:
            request = protocol.Review(newId(), result.record.id, options)
            logic.runner.ask(request, "review", lambda payload: self._take(result, payload.regions))
            return
        from DIANetLib.acwi.review import regions_to_json

        error = self._errorProbability(result)
        if error is None:
            raise InputError(
                _("The error probability volume of {name} is gone.").format(
                    name=result.segmentationNode.GetName()
                ),
                remedy=_("Click Segment again."),
            )
        regions = self._finderOf(result, error).find(
            threshold=options.threshold,
            minimum_mm3=options.minimum_mm3,
            maximum=options.maximum,
            extent_mm=options.extent_mm,
        )
        self._take(result, regions_to_json(regions))

    # --- one place ---

    def explain(self, rank: int) -> LayerKey:
        """Have Grad-CAM of the part of its first structure that lies in a place (event `"layers"`).

        Returns:
            The layer that it becomes.

        Raises:
            DIANetError: It cannot be had.
        """
        region = self._region(rank)
        if not region.structures:
            raise InputError(_("There is no structure in this place that could be explained."))
        key = LayerKey("gradcam", region.structures[0])
        self._logic.requestLayer(key, BoxLPS(region.lo, region.hi))
        return key

    def beginEdit(self, rank: int, threshold: float) -> tuple[Result, Edit]:
        """Prepare a place for the Segment Editor; an edit that is going on is ended first.

        Args:
            rank: Of the place.
            threshold: Error probability from which on its voxels counted.

        Raises:
            DIANetError: It cannot be edited; nothing has changed then.
        """
        self.endEdit()
        result, region = self._result(), self._region(rank)
        result.keepBefore()  # only where an earlier version has not
        edit = beginEdit(result, region, self._place(result, region, threshold))
        _noteStart(result)
        self._logic.runner.tell("regions")
        return result, edit

    @property
    def editing(self) -> bool:
        """Whether an edit is going on."""
        return bool(edits(self._logic.environment))

    @property
    def edit(self) -> tuple[Result, Edit] | None:
        """The result that is being edited, and its edit."""
        for result in edits(self._logic.environment):
            edit = editOf(result)
            if edit is not None:
                return result, edit
        return None

    def endEdit(self) -> Outcome | None:
        """End the edit that is going on; a place in which something changed becomes corrected.

        Returns:
            What was changed; None if no edit was going on.
        """
        outcome = None
        for result in edits(self._logic.environment):
            ended = endEdit(result)
            outcome = ended or outcome
            if ended is not None and ended.changed:
                worklist = worklistOf(result)
                if any(region.rank == ended.rank for region in worklist.regions):
                    _keep(result, worklist.with_state(ended.rank, "corrected", reviewer=self.reviewer))
        if outcome is not None:
            self._logic.runner.tell("regions")
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._take(*waiting)
        return outcome

    # --- what happens in the scene ---

    def sceneLoaded(self) -> Outcome | None:
        """End what was going on when the scene was saved, and keep the labels of earlier versions."""
        from .Results import Result

        outcome = self.endEdit()
        for result in Result.all(self._logic.environment):
            try:
                result.keepBefore()
            except InputError:
                continue  # without reference geometry; whoever edits or finishes it is told
        return outcome

    def sceneClosed(self) -> None:
        """Forget what belongs to the scene that is being closed."""
        self._waiting = self._finder = None

    def segmentationRemoved(self, node: Any) -> None:
        """Give up the edit of a segmentation that is being removed from the scene."""
        from .Results import Result

        if not node.IsA("vtkMRMLSegmentationNode") or node.GetScene() is None or node.GetScene().IsClosing():
            return
        self._finder = None
        result = Result.fromNode(self._logic.environment, node)
        if result is not None:
            endEdit(result, compare=False)

    # --- helpers ---

    def _result(self) -> Result:
        result = self._logic.result
        if result is None:
            raise InputError(_("There is no result yet."), remedy=_("Click Segment first."))
        return result

    def _region(self, rank: int) -> Region:
        for region in self.worklist().regions:
            if region.rank == rank:
                return region
        raise InputError(_("There is no place {rank} in the list.").format(rank=rank))

    def _errorProbability(self, result: Result) -> Any:
        from .Nodes import volumeFromNode

        node = result.layerNode(LayerKey("error"))
        return None if node is None else volumeFromNode(node)

    def _finderOf(self, result: Result, error: Volume) -> RegionFinder:
        """What looks for places; made anew where the error probability or the labels are others."""
        import numpy as np

        from DIANetLib.acwi.worklist import RegionFinder

        labels = result.labels()
        if self._finder is not None:
            finder, ofError, ofLabels = self._finder
            same = np.may_share_memory(ofError.array, error.array)  # both are views of the node's own voxels
            same = same and error.geometry.same_grid(ofError.geometry, 0)
            if same and np.array_equal(ofLabels.array, labels.array):
                return finder
        structures = [structureOf(info) for info in result.record.structures]
        finder = RegionFinder(error, labels, structures)
        self._finder = finder, error, labels
        return finder

    def _place(self, result: Result, region: Region, threshold: float) -> np.ndarray:
        """The voxels that may be edited; the region's box where the error probability is gone."""
        import numpy as np

        from DIANetLib.acwi.worklist import edit_mask
        from DIANetLib.volume import Volume

        error = self._errorProbability(result)
        grid = result.geometry
        if error is None or not error.geometry.same_grid(grid, 1e-3):
            error, threshold = Volume(np.ones(grid.shape, np.float32), grid), 0.5
        return edit_mask(region, error, threshold=threshold)

    def _take(self, result: Result, text: str) -> None:
        """Take a new list; what was said of a place that is in both stays."""
        if self._logic.result is not result:
            return
        if self.editing:  # which knows its place by its rank
            self._waiting = result, text
            return
        from DIANetLib.acwi.review import regions_from_json, regions_to_json

        worklist = worklistOf(result).reranked(regions_from_json(text))
        result.setRegions(regions_to_json(worklist.regions))
        self._logic.runner.tell("regions")


def worklistOf(result: Result | None) -> Worklist:
    """The places of a result; none for None.

    Raises:
        InputError: What the scene holds of them cannot be read.
    """
    from DIANetLib.acwi.review import regions_from_json
    from DIANetLib.acwi.worklist import Worklist

    text = "" if result is None else result.regions()
    return Worklist(regions_from_json(text) if text else ())


def _keep(result: Result, worklist: Worklist) -> None:
    from DIANetLib.acwi.review import regions_to_json

    _noteStart(result)
    result.setRegions(regions_to_json(worklist.regions))


def _noteStart(result: Result) -> None:
    """Keep when the review began."""
    node = result.segmentationNode
    if not node.GetAttribute(STARTED_ATTRIBUTE):
        node.SetAttribute(STARTED_ATTRIBUTE, datetime.now().astimezone().isoformat("T", "seconds"))
