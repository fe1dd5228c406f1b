# SPDX-License-Identifier: Apache-2.0
r"""What the module does, as a state machine without Qt: the worker on one side, MRML nodes on the other.

    IDLE -> STARTING -> RUNNING -> IDLE          segment, requestLayer
                 \          \-> CANCELLING -> IDLE

Usable from Slicer's Python console and from scripts: `segmentNode` does it all and waits. Everything happens
in the thread that the client calls back in, which is Slicer's main thread.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from DIANetLib import errors
from DIANetLib.catalogue import read_catalogue
from DIANetLib.errors import DIANetError, InputError, WorkerError
from DIANetLib.worker import protocol
from DIANetLib.worker.protocol import BoxLPS, ModelInfo, ReviewOptions, SharedVolume

from .Activity import Activity, Meter
from .Settings import Settings, whatIsMissing
from .Translate import tr as _

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region

    from .Results import LayerKey, Result

__all__ = ["EAGER_STRUCTURES", "Logic", "State"]

#: Results with more structures than this get their layers per structure (variance, Grad-CAM) when they are
#: chosen: on a 1 mm head each takes 35 MB, and Grad-CAM more than a second on a CPU.
EAGER_STRUCTURES = 8
_PER_STRUCTURE = ("variance", "gradcam")
_KEPT_BY_WORKER = 3  # results whose features the worker keeps
_LOG_LINES = 500
_TERMINATE_MS, _KILL_MS = 2000, 5000

_logger = logging.getLogger("DIANet")


class State(str, Enum):
    """What the logic is busy with."""

    IDLE = "idle"
    STARTING = "starting"
    RUNNING = "running"
    CANCELLING = "cancelling"


@dataclass
class _Run:
    """The request that the state is about."""

    request: protocol.Segment | protocol.Explain
    meter: Meter
    settings: Settings | None = None
    files: tuple[SharedVolume, ...] = ()
    nodeIds: tuple[str, ...] = ()
    dropped: bool = False  # the scene was closed: whatever it gives is thrown away
    reason: str | None = None  # why it was stopped, where the user did not ask for it


@dataclass
class _Files:
    """Maps of a result that have no node yet, in the exchange folder."""

    maps: dict[str, SharedVolume] = field(default_factory=dict)


class Logic:
    """Runs segmentations and keeps their results at hand.

    Args:
        environment: Scene and logics; Slicer's own by default.
        client: The worker; a process of Slicer's Python by default.
        later: `later(milliseconds, function)` calls a function once; Qt's single-shot timer by default.

    Attributes:
        state: What is going on.
        activity: How far it is; None while idle.
        result: The current result.
        lastError: What the latest run failed with; None if it did not.
        lastOutcome: `"done"`, `"cancelled"`, `"failed"`, or `""` before the first run.
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
        self.state = State.IDLE
        self.activity: Activity | None = None
        self.result: Result | None = None
        self.lastError: DIANetError | None = None
        self.lastOutcome = ""
        self.estimated: tuple[protocol.DeviceEstimate, ...] = ()
        self.report: protocol.DoctorReport | None = None
        self._environment = environment
        self._client = client
        self._later = later
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._listeners: list[Callable[[str], None]] = []
        self._models: tuple[ModelInfo, ...] | None = None
        self._run: _Run | None = None
        self._asked: dict[str, str] = {}  # requests beside the run: id -> type
        self._files: dict[str, _Files] = {}  # by result id
        self._keptByWorker: list[str] = []
        self._greeted = False
        if client is not None:
            self._attach(client)

    # --- what there is ---

    @property
    def environment(self) -> Any:
        """Scene and logics."""
        if self._environment is None:
            from .Scene import Environment

            self._environment = Environment.fromSlicer()
        return self._environment

    @property
    def client(self) -> Any:
        """The worker's client."""
        if self._client is None:
            from .WorkerClient import WorkerClient

            self._client = WorkerClient()
            self._attach(self._client)
        return self._client

    @property
    def workerRunning(self) -> bool:
        """Whether the worker process is there."""
        return self._client is not None and self._client.running

    @property
    def busy(self) -> bool:
        """Whether a run is going on."""
        return self.state is not State.IDLE

    @property
    def log(self) -> Sequence[str]:
        """The latest lines of the worker's log."""
        return tuple(self._log)

    def addListener(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call a function with the name of whatever changes.

        Names: `"state"`, `"activity"`, `"result"`, `"layers"`, `"regions"`, `"estimate"`, `"report"`,
        `"models"`, `"log"`, `"error"`.

        Returns:
            A function that removes it again.
        """
        self._listeners.append(listener)

        def remove() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return remove

    def models(self) -> tuple[ModelInfo, ...]:
        """The models that are installed, usable or not."""
        if self._models is None:
            self._models = read_catalogue()
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
        raise InputError(_("There is no model {name!r}; there are: {known}.").format(name=name, known=known))

    def refreshModels(self) -> None:
        """Read the catalogue again."""
        self._models = None
        self._tell("models")

    def whatIsMissing(self, settings: Settings) -> str:
        """A sentence that says why a run cannot start; empty if it can."""
        if self.busy:
            return _("A run is going on; cancel it or wait for its end.")
        return whatIsMissing(settings)

    # --- runs ---

    def segment(self, settings: Settings) -> None:
        """Start a segmentation; its end is told by the events `"state"` and `"result"` or `"error"`.

        Raises:
            DIANetError: It cannot start; nothing has changed then.
        """
        from .Nodes import boxFromRoi, volumeFromNode

        missing = self.whatIsMissing(settings)
        if missing:
            raise InputError(missing)
        model = settings.model
        assert model is not None  # whatIsMissing has looked
        roi = None
        if settings.roi is not None:
            roi = boxFromRoi(settings.roi)
            if roi is None:
                raise InputError(
                    _("The region of interest {name} is not placed yet.").format(name=settings.roi.GetName()),
                    remedy=_("Place it in a slice view, or choose none."),
                )
        volumes = [
            volumeFromNode(settings.inputs[modality.name], modality.name)
            for modality in model.modalities
            if settings.inputs.get(modality.name) is not None
        ]
        eager = len(model.structures) * (2 if model.sides else 1) <= EAGER_STRUCTURES
        stages = ("start",) * (not self._greeted) + ("load", "prepare")
        stages += ("localise",) * (model.localiser is not None) + ("segment", "restore")
        stages += ("explain",) * eager + ("write", "show")
        meter = Meter(stages)
        self._start()
        exchange = self.client.exchange
        files: list[SharedVolume] = []
        try:
            for volume in volumes:
                files.append(exchange.write(volume))
            request = protocol.Segment(
                id=_newId(),
                model=model.path or model.name,
                volumes=tuple(files),
                roi=roi,
                device=settings.device,
                samples=settings.samples,
                seed=settings.seed,
                explain=("all",) if eager else (),
                review=settings.review,
            )
            nodeIds = tuple(node.GetID() for node in settings.inputNodes)
            self._begin(_Run(request, meter, settings, tuple(files), nodeIds))
        except Exception:
            exchange.delete(*files)
            raise

    def segmentNode(
        self,
        node: Any,
        model: str = "hippocampus",
        *,
        device: str = "auto",
        samples: int = 10,
        seed: int = 0,
        roi: Any = None,
        seconds: float | None = None,
    ) -> Result:
        """Segment a volume, or several by the name of their modality, and wait for the result.

        Args:
            node: Volume node, or a mapping from names of modalities to volume nodes.
            model: Name of a model.
            device: Where to run.
            samples: Stochastic passes.
            seed: Of the stochastic passes.
            roi: Markups ROI node that says where to look.
            seconds: Longest time to wait; None for as long as it takes.

        Raises:
            DIANetError: As a dialog would tell it.
        """
        info = self.model(model)
        if isinstance(node, Mapping):
            inputs = dict(node)
        else:
            inputs = {info.modalities[0].name: node} if info.modalities else {}
        self.segment(Settings(info, inputs, roi=roi, device=device, samples=samples, seed=seed))
        self.wait(seconds)
        if self.lastError is not None:
            raise self.lastError
        if self.lastOutcome != "done" or self.result is None:
            raise errors.Cancelled
        return self.result

    def cancel(self) -> None:
        """Stop the run; a worker that does not listen is ended."""
        run = self._run
        if run is None or self.state is State.CANCELLING:
            return
        self._set(State.CANCELLING, Activity("stop"))
        try:
            self.client.send(protocol.Cancel(_newId(), run.request.id))
        except WorkerError:
            self._finish("cancelled")
            return

        def escalate(action: Callable[[], None]) -> Callable[[], None]:
            def act() -> None:
                if self._run is run:
                    action()

            return act

        self.later(_TERMINATE_MS, escalate(self.client.terminate))
        self.later(_KILL_MS, escalate(self.client.kill))

    def later(self, milliseconds: int, function: Callable[[], None]) -> None:
        """Call a function once, after some time."""
        if self._later is None:
            import qt

            self._later = qt.QTimer.singleShot
        self._later(milliseconds, function)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing is going on, for scripts.

        Raises:
            WorkerError: It took longer than `seconds`.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.busy or self._asked:
            if deadline is not None and time.monotonic() > deadline:
                raise WorkerError(_("The worker has not answered within {n:g} s.").format(n=seconds))
            self.client.poll(0.05)

    def stop(self) -> None:
        """End the worker and forget everything that is not in the scene."""
        self._run = None
        self._forgetWorker()
        if self._client is not None:
            self._client.stop()
        if self.busy:
            self._set(State.IDLE, None)

    # --- the current result ---

    def useResult(self, result: Result | None) -> None:
        """Make a result of the scene the current one."""
        self.result = result
        self._tell("result")

    def layerKeys(self) -> tuple[LayerKey, ...]:
        """All layers that the current result has or can get, those of the whole image first."""
        from .Results import LayerKey

        if self.result is None:
            return ()
        record = self.result.record
        there = [LayerKey.parse(text) for text in record.layers]
        files = self._files.get(record.id, _Files()).maps
        keys = [*there, *(LayerKey.parse(text) for text in files)]
        if record.id in self._keptByWorker:
            keys += [LayerKey("gradcam", structure.key) for structure in record.structures]
        order = ("total", "epistemic", "aleatoric", "heteroscedastic", "error", "attention", *_PER_STRUCTURE)
        position = {structure.key: n for n, structure in enumerate(record.structures)}

        def place(key: LayerKey) -> tuple[int, int]:
            return order.index(key.kind), position.get(key.structure or "", -1)

        return tuple(sorted(dict.fromkeys(keys), key=place))

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
        if region is None and result.layerNode(key) is not None:
            self._tell("layers")
            return
        files = self._files.get(result.record.id, _Files()).maps
        if key.id in files:
            shared = files.pop(key.id)
            try:
                result.addLayer(key, self.client.exchange.read(shared))
            finally:
                self.client.exchange.delete(shared)
            self._tell("layers")
            return
        if key.kind != "gradcam" or key.structure is None:
            raise InputError(_("This result has no layer {name}.").format(name=key.id))
        if result.record.id not in self._keptByWorker or not self.workerRunning:
            raise InputError(
                _("This result can no longer be explained: the worker that made it has forgotten it."),
                remedy=_("Click Segment again, then choose the layer."),
            )
        if self.busy:
            raise InputError(_("A run is going on; cancel it or wait for its end."))
        request = protocol.Explain(_newId(), result.record.id, (key.structure,), region)
        self._begin(_Run(request, Meter(("explain", "show"))))

    def requestAllLayers(self) -> None:
        """Have every layer's node in the scene, Grad-CAM with one request.

        Raises:
            DIANetError: They cannot be had.
        """
        keys = [key for key in self.layerKeys() if self.result and self.result.layerNode(key) is None]
        for key in keys:
            if key.kind != "gradcam":
                self.requestLayer(key)
        structures = tuple(key.structure for key in keys if key.kind == "gradcam" and key.structure)
        if structures and self.result is not None:
            if self.busy:
                raise InputError(_("A run is going on; cancel it or wait for its end."))
            request = protocol.Explain(_newId(), self.result.record.id, structures)
            self._begin(_Run(request, Meter(("explain", "show"))))

    def regions(self) -> tuple[Region, ...]:
        """Low-confidence regions of the current result, the worst first.

        Raises:
            InputError: What the scene holds of them cannot be read.
        """
        if self.result is None or not self.result.regions():
            return ()
        from DIANetLib.acwi.review import regions_from_json

        return regions_from_json(self.result.regions())

    def setRegionState(self, rank: int, state: str) -> None:
        """Note what the reviewer said of a region: `"open"`, `"accepted"`, `"corrected"` or `"skipped"`."""
        from DIANetLib.acwi.review import regions_to_json

        if self.result is None:
            return
        regions = [
            replace(region, state=state) if region.rank == rank else region for region in self.regions()
        ]
        self.result.setRegions(regions_to_json(regions))
        self._tell("regions")

    def review(self, options: ReviewOptions) -> None:
        """Look for low-confidence regions again (event `"regions"`).

        Asks the worker where it still has the result, else looks in the scene's nodes.

        Raises:
            DIANetError: The options are out of range, or the result lacks what is needed.
        """
        result = self.result
        if result is None:
            return
        if result.record.id in self._keptByWorker and self.workerRunning and not self.busy:
            request = protocol.Review(_newId(), result.record.id, options)
            self._asked = {key: kind for key, kind in self._asked.items() if kind != "review"}
            self._ask(request, "review")
            return
        from DIANetLib.acwi.review import find_regions, regions_to_json

        from .Nodes import volumeFromNode
        from .Results import LayerKey

        node = result.layerNode(LayerKey("error"))
        if node is None:
            raise InputError(
                _("The result {name} has lost its error probability volume.").format(
                    name=result.segmentationNode.GetName()
                ),
                remedy=_("Click Segment again."),
            )
        regions = find_regions(
            volumeFromNode(node),
            result.labels(),
            [structureOf(info) for info in result.record.structures],
            threshold=options.threshold,
            minimum_mm3=options.minimum_mm3,
            maximum=options.maximum,
            extent_mm=options.extent_mm,
        )
        self._takeRegions(result, regions_to_json(regions))

    # --- other requests ---

    def estimate(self, settings: Settings) -> None:
        """Ask what a run would need (event `"estimate"`); starts the worker, so that it is warm early."""
        from .Nodes import boxFromRoi, geometryFromNode

        if settings.model is None or whatIsMissing(settings):
            return
        geometry = geometryFromNode(settings.inputNodes[0])
        self._start()
        self._asked = {key: kind for key, kind in self._asked.items() if kind != "estimate"}
        request = protocol.Estimate(
            id=_newId(),
            model=settings.model.path or settings.model.name,
            size=geometry.size,
            spacing=geometry.spacing,
            direction=tuple(float(value) for value in geometry.direction.ravel()),
            roi=None if settings.roi is None else boxFromRoi(settings.roi),
            samples=settings.samples,
        )
        self._ask(request, "estimate")

    def doctor(self) -> None:
        """Check machine and installation (event `"report"`)."""
        self._start()
        self._ask(protocol.Doctor(_newId()), "doctor")

    def unload(self) -> None:
        """Free the memory that the worker holds; results can then no longer be explained."""
        if self.workerRunning:
            self._ask(protocol.Unload(_newId()), "unload")
            self._keptByWorker.clear()
            self._tell("layers")

    # --- what happens in the scene ---

    def inputRemoved(self, node: Any) -> None:
        """Stop the run that reads a node which is being removed."""
        run = self._run
        if run is not None and node.GetID() in run.nodeIds:
            run.reason = _(
                "The volume {name} was removed from the scene, so its segmentation was stopped."
            ).format(name=node.GetName())
            self.cancel()

    def resultRemoved(self) -> None:
        """Forget the current result, whose segmentation was removed from the scene."""
        if self.result is not None:
            self._dropFiles(self.result.record.id)
            self.useResult(None)

    def sceneClosed(self) -> None:
        """Stop what is going on and forget the results of the scene that is being closed."""
        if self._run is not None:
            self._run.dropped = True
            self.cancel()
        for identifier in list(self._files):
            self._dropFiles(identifier)
        self.useResult(None)

    # --- the worker ---

    def _attach(self, client: Any) -> None:
        client.onEvent, client.onLost, client.onLog = self._onEvent, self._onLost, self._onLog

    def _start(self) -> None:
        if not self.client.running:
            self._forgetWorker()
            self._greeted = False
            self.client.start()

    def _begin(self, run: _Run) -> None:
        self.client.send(run.request)
        self._run = run
        self.lastError, self.lastOutcome = None, ""
        stage = "load" if self._greeted else "start"
        self._set(State.RUNNING if self._greeted else State.STARTING, run.meter.at(stage))

    def _ask(self, request: Any, kind: str) -> None:
        self.client.send(request)
        self._asked[request.id] = kind

    def _onLog(self, line: str) -> None:
        self._log.append(line)
        self._tell("log")

    def _onLost(self, sentence: str) -> None:
        """The worker is gone; nothing in the scene is lost, and the next run starts a new one."""
        self._forgetWorker()
        self._onLog(sentence)
        run = self._run
        if run is None:
            self._tell("state")
        elif self.state is State.CANCELLING:
            self._finish("cancelled")
        else:
            error = WorkerError(
                sentence,
                remedy=_("Nothing in the scene has changed. Try again: a new worker is started then."),
            )
            self._finish("failed", error)
        self._tell("layers")

    def _forgetWorker(self) -> None:
        self._greeted = False
        self._asked.clear()
        self._keptByWorker.clear()

    def _onEvent(self, event: protocol.Event) -> None:
        if isinstance(event, protocol.Hello):
            self._onHello(event)
            return
        run = self._run
        mine = run is not None and event.id == run.request.id
        if isinstance(event, protocol.Progress):
            if mine and run is not None and self.state is not State.CANCELLING:
                self._set(State.RUNNING, run.meter.at(event.stage, event.done, event.total))
        elif mine:
            self._onEndOfRun(event)
        elif event.id in self._asked:
            self._onAnswer(event, self._asked.pop(event.id))
        elif isinstance(event, protocol.Failed):
            self._onLog(event.message)
        elif isinstance(event, protocol.Result):
            self._discard(event.payload)

    def _onHello(self, hello: protocol.Hello) -> None:
        self._onLog(f"DIANet {hello.version}, worker {hello.pid}, Python {hello.python}")
        if hello.protocol != protocol.PROTOCOL_VERSION:
            self.client.kill()
            self._onLost(
                _("The worker is of another version of DIANet ({version}).").format(version=hello.version)
            )
            return
        self._greeted = True
        if self.state is State.STARTING and self._run is not None:
            self._set(State.RUNNING, self._run.meter.at("load"))

    def _onEndOfRun(self, event: protocol.Result | protocol.Failed | protocol.Cancelled) -> None:
        run = self._run
        assert run is not None
        if isinstance(event, protocol.Failed):
            self._finish("failed", errorOf(event))
        elif isinstance(event, protocol.Cancelled):
            self._finish("cancelled")
        elif run.dropped or self.state is State.CANCELLING:
            # It was done before it heard of the cancellation; the user has asked for nothing to change.
            self._discard(event.payload)
            self._finish("cancelled")
        else:
            self._set(self.state, run.meter.at("show"))
            try:
                if isinstance(event.payload, protocol.Segmented):
                    self._takeSegmentation(run, event.payload)
                elif isinstance(event.payload, protocol.Explained):
                    self._takeExplanation(run, event.payload)
            except DIANetError as error:
                self._finish("failed", error)
            except Exception as error:
                _logger.exception("The result could not be shown")
                self._finish(
                    "failed",
                    WorkerError(
                        _("The result could not be put into the scene: {reason}.").format(reason=error),
                        remedy=_("Copy the report from the section Set-up and log, and report this."),
                    ),
                )
            else:
                self._finish("done")
                self._tell("result" if isinstance(event.payload, protocol.Segmented) else "layers")

    def _onAnswer(self, event: protocol.Result | protocol.Failed | protocol.Cancelled, kind: str) -> None:
        if isinstance(event, protocol.Failed):
            self._onLog(" ".join(filter(None, (event.message, event.remedy))))
            if kind != "estimate":  # an estimate is a courtesy: the run itself will say what is wrong
                self.lastError = errorOf(event)
                self._tell("error")
        elif isinstance(event, protocol.Result):
            payload = event.payload
            if isinstance(payload, protocol.Estimated):
                self.estimated = payload.devices
                self._tell("estimate")
            elif isinstance(payload, protocol.DoctorReport):
                self.report = payload
                self._tell("report")
            elif isinstance(payload, protocol.Reviewed) and self.result is not None:
                self._takeRegions(self.result, payload.regions)

    # --- what the worker gives ---

    def _takeSegmentation(self, run: _Run, payload: protocol.Segmented) -> None:
        from .Results import LayerKey, Result

        assert run.settings is not None
        exchange = self.client.exchange
        identifier = run.request.id
        eager = len(payload.structures) <= EAGER_STRUCTURES
        waiting = _Files()
        result = None
        try:
            result = Result.create(
                self.environment,
                identifier,
                run.settings.inputNodes,
                payload,
                exchange.read(payload.labels),
                replace=None,
            )
            for entry in payload.maps:
                key = LayerKey(entry.kind, entry.structure)
                if eager or entry.kind not in _PER_STRUCTURE:
                    result.addLayer(key, exchange.read(entry.volume))
                else:
                    waiting.maps[key.id] = entry.volume
        except Exception:
            if result is not None:
                result.remove()
            self._discard(payload)
            raise
        kept = {shared.file for shared in waiting.maps.values()}
        exchange.delete(*(shared for shared in _filesOf(payload) if shared.file not in kept))
        if run.settings.replace is not None:  # only now that the new one is complete
            self._dropFiles(run.settings.replace.record.id)
            run.settings.replace.remove()
        self._files[identifier] = waiting
        self._keptByWorker = [*self._keptByWorker, identifier][-_KEPT_BY_WORKER:]
        self.result = result

    def _takeExplanation(self, run: _Run, payload: protocol.Explained) -> None:
        from .Results import LayerKey

        exchange = self.client.exchange
        try:
            if self.result is not None and self.result.record.id == run.request.result:
                for entry in payload.maps:
                    self.result.addLayer(LayerKey(entry.kind, entry.structure), exchange.read(entry.volume))
        finally:
            self._discard(payload)

    def _takeRegions(self, result: Result, text: str) -> None:
        """Take a new list; a region that was looked at already keeps what was said of it."""
        from DIANetLib.acwi.review import regions_from_json, regions_to_json

        said = {(r.centre, r.structures): r.state for r in self.regions() if r.state != "open"}
        regions = [
            replace(region, state=said.get((region.centre, region.structures), region.state))
            for region in regions_from_json(text)
        ]
        result.setRegions(regions_to_json(regions))
        self._tell("regions")

    def _discard(self, payload: protocol.Payload) -> None:
        if self._client is not None and self._client.exchange is not None:
            self._client.exchange.delete(*_filesOf(payload))

    def _dropFiles(self, identifier: str) -> None:
        files = self._files.pop(identifier, None)
        if files is not None and self._client is not None and self._client.exchange is not None:
            self._client.exchange.delete(*files.maps.values())

    # --- state ---

    def _finish(self, outcome: str, error: DIANetError | None = None) -> None:
        run = self._run
        assert run is not None
        self._run = None
        if self._client is not None and self._client.exchange is not None:
            self._client.exchange.delete(*run.files)
        if outcome == "cancelled" and run.reason is not None:
            outcome, error = "failed", InputError(run.reason)
        self.lastOutcome, self.lastError = outcome, error
        self._set(State.IDLE, None)
        if error is not None:
            self._onLog(str(error))
            self._tell("error")

    def _set(self, state: State, activity: Activity | None) -> None:
        changed = state is not self.state
        self.state, self.activity = state, activity
        if changed:
            self._tell("state")
        self._tell("activity")

    def _tell(self, event: str) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:  # one listener's fault must not stop a run half-way
                _logger.exception("A listener failed on %s", event)


def errorOf(failed: protocol.Failed) -> DIANetError:
    """The error that a worker's message stands for."""
    if failed.kind == "internal":
        return WorkerError(
            failed.message,
            remedy=failed.remedy or _("The log says more; copy the report and report this."),
        )
    for cls in DIANetError.__subclasses__():
        if cls.kind == failed.kind:
            return cls(failed.message, remedy=failed.remedy)
    return WorkerError(failed.message, remedy=failed.remedy)


def structureOf(info: protocol.StructureInfo) -> Any:
    """The library's structure that a message describes."""
    from DIANetLib.structures import Code, Structure

    def code(term: protocol.CodeInfo | None) -> Code | None:
        return None if term is None else Code(term.scheme, term.value, term.meaning)

    return Structure(
        info.value, info.key, info.name, info.color, code(info.category), code(info.type), code(info.modifier)
    )


def _filesOf(payload: protocol.Payload) -> tuple[SharedVolume, ...]:
    if isinstance(payload, protocol.Segmented):
        return (payload.labels, *(entry.volume for entry in payload.maps))
    if isinstance(payload, protocol.Explained):
        return tuple(entry.volume for entry in payload.maps)
    return ()


def _newId() -> str:
    return uuid.uuid4().hex
