# SPDX-License-Identifier: Apache-2.0
"""What the module does: segment volumes of the scene, and have layers and regions of the results.

Without Qt, and usable from Slicer's Python console and from scripts: `segmentNode` does it all and waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from DIANetLib.catalogue import read_catalogue
from DIANetLib.errors import Cancelled, DIANetError, InputError
from DIANetLib.worker import protocol
from DIANetLib.worker.protocol import BoxLPS, ModelInfo, SharedVolume

from .Activity import Activity, Meter, stagesOf
from .LayerSource import EAGER_STRUCTURES, LayerSource
from .Messages import filesOf
from .Review import Review
from .Runner import Run, Runner, State, newId
from .Settings import Settings, boxOf, whatIsMissing
from .Translate import tr as _

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region

    from .Results import LayerKey, Result

__all__ = ["Logic", "State"]


class Logic:
    """Runs segmentations and keeps their results at hand.

    Args:
        environment: Scene and logics; Slicer's own by default.
        client: The worker; a process of Slicer's Python by default.
        later: `later(milliseconds, function)` calls a function once; Qt's single-shot timer by default.

    Attributes:
        runner: The worker's requests.
        review: Judging, correcting and ranking the places of the current result.
        result: The current result.
        spared: Name of the result that the latest run was to replace and did not, as its review is not saved.
        estimated: Answer to the latest `estimate`.
        report: Answer to the latest `doctor`.
    """

    def __init__(
        self,
        environment: Any = None,
        client: Any = None,
        *,
        later: Callable[[int, Callable[[], None]], object] | None = None,
    ) -> None:
        self.runner = Runner(client, later)
        self.review = Review(self)
        self.result: Result | None = None
        self.spared = ""
        self.estimated: tuple[protocol.DeviceEstimate, ...] = ()
        self.report: protocol.DoctorReport | None = None
        self._environment = environment
        self._models: tuple[ModelInfo, ...] | None = None
        self._layers = LayerSource()
        self._seconds: dict[str, Mapping[str, float]] = {}  # per stage, of the latest run of each model
        self.runner.onForgotten = self._workerForgot

    # --- what there is ---

    @property
    def environment(self) -> Any:
        """Scene and logics."""
        if self._environment is None:
            from .Scene import Environment

            self._environment = Environment.fromSlicer()
        return self._environment

    @property
    def state(self) -> State:
        """What is going on."""
        return self.runner.state

    @property
    def busy(self) -> bool:
        """Whether a run is going on."""
        return self.runner.busy

    @property
    def activity(self) -> Activity | None:
        """How far the run is; None while idle."""
        return self.runner.activity

    @property
    def lastError(self) -> DIANetError | None:
        """What the latest run failed with; None if it did not."""
        return self.runner.lastError

    @property
    def lastOutcome(self) -> str:
        """`"done"`, `"cancelled"`, `"failed"`, or `""` before the end of the first run."""
        return self.runner.lastOutcome

    @property
    def workerRunning(self) -> bool:
        """Whether the worker process is there."""
        return self.runner.workerRunning

    @property
    def log(self) -> Sequence[str]:
        """The latest lines of the worker's log."""
        return self.runner.log

    def addListener(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call a function with the name of whatever changes.

        Names: `"state"`, `"activity"`, `"result"`, `"layers"`, `"regions"`, `"estimate"`, `"report"`,
        `"models"`, `"log"`, `"error"`.

        Returns:
            A function that removes it again.
        """
        return self.runner.addListener(listener)

    def models(self) -> tuple[ModelInfo, ...]:
        """The models that segment and are installed, usable or not."""
        if self._models is None:
            listed = read_catalogue()
            self._models = tuple(model for model in listed if model.structures or model.problem is not None)
        return self._models

    def model(self, name: str) -> ModelInfo:
        """The model of that name.

        Raises:
            InputError: There is none.
        """
        for info in self.models():
            if info.name == name:
                return info
        known = ", ".join(info.name for info in self.models()) or _("none")
        raise InputError(_("There is no model {name}; there are: {known}.").format(name=name, known=known))

    def refreshModels(self) -> None:
        """Read the catalogue again (event `"models"`)."""
        self._models = None
        self.runner.tell("models")

    def whatIsMissing(self, settings: Settings) -> str:
        """A sentence that says why a run cannot start; empty if it can."""
        if self.busy:
            return _("A run is going on; cancel it or wait for its end.")
        return whatIsMissing(settings)

    # --- segmentation ---

    def segment(self, settings: Settings) -> None:
        """Start a segmentation; its end is told by the events `"state"` and `"result"` or `"error"`.

        Raises:
            DIANetError: It cannot start; nothing has changed then.
        """
        from .Nodes import volumeFromNode

        missing = self.whatIsMissing(settings)
        if missing or settings.model is None:
            raise InputError(missing)
        self.review.endEdit()
        model = settings.model
        box = boxOf(settings)
        eager = len(model.structures) * (2 if model.sides else 1) <= EAGER_STRUCTURES
        volumes = [
            volumeFromNode(settings.inputs[modality.name], modality.name)
            for modality in model.modalities
            if settings.inputs.get(modality.name) is not None
        ]
        self.runner.start()
        files: list[SharedVolume] = []
        try:
            for volume in volumes:
                files.append(self.runner.exchange.write(volume))
            request = protocol.Segment(
                id=newId(),
                model=model.path or model.name,
                volumes=tuple(files),
                roi=box,
                device=settings.device,
                samples=settings.samples,
                seed=settings.seed,
                explain=("all",) if eager else (),
                review=settings.review,
            )
            stages = stagesOf(
                starts=not self.runner.greeted, localises=model.localiser is not None, explains=eager
            )
            run = Run(
                request,
                Meter(stages, seconds=self._seconds.get(model.name)),
                lambda payload: self._takeSegmentation(request.id, settings, payload),
                "result",
                tuple(files),
                tuple(node.GetID() for node in settings.inputNodes),
            )
            self.runner.begin(run)
        except Exception:
            self.runner.exchange.delete(*files)
            raise

    def segmentNode(
        self,
        node: Any,
        model: str = "hippocampus",
        *,
        device: str = "auto",
        samples: int | None = None,
        seed: int = 0,
        roi: Any = None,
        seconds: float | None = None,
    ) -> Result:
        """Segment a volume and wait for the result.

        Args:
            node: Volume node; for several modalities a mapping from their names to volume nodes.
            model: Name of a model.
            device: Where to run.
            samples: Stochastic passes; 0 for one pass; None for what suits the model, one pass or ten.
            seed: Of the stochastic passes.
            roi: Markups ROI node that says where to look.
            seconds: Longest time to wait; None for as long as it takes.

        Raises:
            DIANetError: With the sentence that a dialog would show.
        """
        info = self.model(model)
        inputs = dict(node) if isinstance(node, Mapping) else {m.name: node for m in info.modalities[:1]}
        self.segment(Settings(info, inputs, roi=roi, device=device, samples=samples, seed=seed))
        try:
            self.wait(seconds)
        except BaseException:
            self.cancel()
            raise
        if self.lastError is not None:
            raise self.lastError
        if self.lastOutcome != "done" or self.result is None:
            raise Cancelled
        return self.result

    def cancel(self) -> None:
        """Stop the run; a worker that does not listen is ended."""
        self.runner.cancel()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing is going on, for scripts.

        Raises:
            WorkerError: It took longer than `seconds`.
        """
        self.runner.wait(seconds)

    def stop(self) -> None:
        """End the worker and forget everything that is not in the scene."""
        self.runner.stop()
        self._layers = LayerSource()  # their files went with the exchange folder

    # --- layers of the current result ---

    def useResult(self, result: Result | None) -> None:
        """Make a result of the scene the current one (event `"result"`)."""
        self.result = result
        self.runner.tell("result")

    def layerKeys(self) -> tuple[LayerKey, ...]:
        """All layers that the current result has or can get, those of the whole image first."""
        return () if self.result is None else self._layers.keys(self.result.record)

    def requestLayer(self, key: LayerKey, region: BoxLPS | None = None) -> None:
        """Have a layer's node in the scene: now, or when the worker has answered (event `"layers"`).

        Args:
            key: The layer.
            region: For Grad-CAM: only the structure's part in this box is explained.

        Raises:
            DIANetError: It cannot be had.
        """
        result = self.result
        if result is None:
            raise InputError(_("There is no result yet."), remedy=_("Click Segment first."))
        if region is None and result.layerNode(key) is not None and not result.isPart(key):
            self.runner.tell("layers")
            return
        shared = self._layers.take(result.record.id, key.id)
        if shared is not None:
            exchange = self.runner.exchange
            try:
                result.addLayer(key, exchange.read(shared))
            finally:
                exchange.delete(shared)
            self.runner.tell("layers")
        elif key.kind == "gradcam" and key.structure is not None:
            self._explain(result, (key.structure,), region)
        else:
            raise InputError(_("This result has no layer {name}.").format(name=key.id))

    def requestAllLayers(self) -> None:
        """Have every layer's node in the scene, with one request for all Grad-CAM maps.

        Raises:
            DIANetError: They cannot be had.
        """
        result = self.result
        if result is None:
            return
        keys = [key for key in self.layerKeys() if result.layerNode(key) is None]
        for key in keys:
            if key.kind != "gradcam":
                self.requestLayer(key)
        structures = tuple(key.structure for key in keys if key.kind == "gradcam" and key.structure)
        if structures:
            self._explain(result, structures, None)

    # --- review of the current result ---

    def regions(self) -> tuple[Region, ...]:
        """Low-confidence regions of the current result, the worst first.

        Raises:
            InputError: What the scene holds of them cannot be read.
        """
        return self.review.worklist().regions

    def canExplain(self, result: Result) -> bool:
        """Whether the worker still has what it needs to explain a result, and to review it."""
        return self._layers.canExplain(result.record.id)

    # --- other requests ---

    def estimate(self, settings: Settings) -> None:
        """Ask what a run would need (event `"estimate"`); starts the worker, so that it is warm early.

        Raises:
            DIANetError: The worker cannot be started, or the volume cannot be used.
        """
        from .Nodes import geometryFromNode

        if settings.model is None or whatIsMissing(settings):
            return
        geometry = geometryFromNode(settings.inputNodes[0])
        self.runner.start()
        request = protocol.Estimate(
            id=newId(),
            model=settings.model.path or settings.model.name,
            size=geometry.size,
            spacing=geometry.spacing,
            origin=geometry.origin,
            direction=tuple(float(value) for value in geometry.direction.ravel()),
            roi=boxOf(settings),
            samples=settings.samples,
        )
        self.runner.ask(request, "estimate", self._takeEstimate)

    def doctor(self) -> None:
        """Check machine and installation (event `"report"`).

        Raises:
            WorkerError: The worker cannot be started.
        """
        self.runner.start()
        self.runner.ask(protocol.Doctor(newId()), "doctor", self._takeReport)

    def unload(self) -> None:
        """Free the memory that the worker holds; results can then no longer be explained."""
        if self.workerRunning:
            self.runner.ask(protocol.Unload(newId()), "unload", lambda payload: None)
            self._workerForgot()

    # --- what happens in the scene ---

    def inputRemoved(self, node: Any) -> None:
        """Stop the run that reads a node which is being removed."""
        run = self.runner.run
        if run is not None and node.GetID() in run.nodeIds:
            text = _("The volume {name} was removed from the scene, so its segmentation was stopped.")
            self.runner.cancel(text.format(name=node.GetName()))

    def resultRemoved(self) -> None:
        """Forget the current result, whose segmentation was removed from the scene."""
        if self.result is not None:
            self._layers.drop(self.runner.exchange, self.result.record.id)
            self.useResult(None)

    def sceneClosed(self) -> None:
        """Stop what is going on and forget the results of the scene that is being closed."""
        self.runner.cancel()
        self.review.sceneClosed()
        self._layers.drop(self.runner.exchange)
        self.useResult(None)

    # --- what the worker gives ---

    def _workerForgot(self) -> None:
        self._layers.forgetWorker()
        self.runner.tell("layers")

    def _explain(self, result: Result, structures: tuple[str, ...], region: BoxLPS | None) -> None:
        if not self._layers.canExplain(result.record.id):
            raise InputError(
                _("This result can no longer be explained: the worker that made it has forgotten it."),
                remedy=_("Click Segment again, then choose the layer."),
            )
        request = protocol.Explain(newId(), result.record.id, structures, region)
        self.runner.begin(
            Run(
                request,
                Meter(("explain", "show")),
                lambda payload: self._takeExplanation(result, payload, region),
                "layers",
            )
        )

    def _takeSegmentation(self, identifier: str, settings: Settings, payload: protocol.Segmented) -> None:
        from .Corrections import isUnsaved
        from .Placing import placed

        exchange = self.runner.exchange
        try:
            result, waiting = placed(self.environment, exchange, identifier, settings, payload)
        except Exception:
            self.runner.discard(payload)
            raise
        kept = {shared.file for shared in waiting.values()}
        exchange.delete(*(shared for shared in filesOf(payload) if shared.file not in kept))
        earlier, self.spared = settings.replace, ""
        if earlier is not None and earlier.exists:  # only now that the new one is complete
            if isUnsaved(earlier):  # perhaps reviewed while the run went on
                self.spared = earlier.segmentationNode.GetName()
            else:
                self._layers.drop(exchange, earlier.record.id)
                result.takePlaceOf(earlier)
        self._layers.add(identifier, waiting)
        self._seconds[settings.model.name if settings.model else ""] = payload.timings
        self.result = result

    def _takeExplanation(self, result: Result, payload: protocol.Explained, region: BoxLPS | None) -> None:
        from .Results import LayerKey

        try:
            if self.result is result:
                for entry in payload.maps:
                    volume = self.runner.exchange.read(entry.volume)
                    result.addLayer(LayerKey(entry.kind, entry.structure), volume, part=region is not None)
        finally:
            self.runner.discard(payload)

    def _takeEstimate(self, payload: protocol.Estimated) -> None:
        self.estimated = payload.devices
        self.runner.tell("estimate")

    def _takeReport(self, payload: protocol.DoctorReport) -> None:
        self.report = payload
        self.runner.tell("report")
