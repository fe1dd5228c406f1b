# SPDX-License-Identifier: Apache-2.0
"""The viewer of one output folder: what is chosen on the page changes the scene, and the page says so."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from DIANetLib.acwi.quality import LightLimits
from DIANetLib.acwi.review import State
from DIANetLib.errors import DIANetError
from DIANetLib.formats.report_pictures import grey_window
from DIANetLib.viewer import state as words
from DIANetLib.viewer.folder import Folder, box_of, read_image, read_labels, read_layer
from DIANetLib.viewer.layers import Layer
from DIANetLib.viewer.page import build_page
from DIANetLib.viewer.scene import ORIENTATIONS, Scene
from DIANetLib.viewer.session import ReviewSession
from DIANetLib.viewer.surfaces import surface
from DIANetLib.viewer.views import make_views
from DIANetLib.volume import Volume

__all__ = ["Viewer"]

NO_LAYER = "none"
_AXES = {"Axial": "S", "Coronal": "A", "Sagittal": "R"}
_OPACITY, _THRESHOLD = 0.6, 0.1
_NUMBERED_FROM = 0.5  # no number of a thing is too low to be seen
_LOWEST_SHARE = 1e-4  # of the scale: a map is 0 where nothing was looked at
_FIRST_LAYERS = ("error", "total")
_KEYS: dict[str, State] = {"a": "accepted", "c": "corrected", "s": "skipped", "o": "open"}
_KEPT_MAPS = 3  # read maps that are held, so that two can be compared by switching between them
_SURFACES_AFTER_S = 1.0  # after the page is open, so that the slices are there first


class Viewer:
    """A page that shows an output folder.

    Args:
        folder: What to show.
        image: Where the first input is now; default: where it was read from.
        reviewer: Who judges regions; noted with each judgement.

    Attributes:
        server: trame's server, not started.
    """

    def __init__(self, folder: Folder, *, image: Path | None = None, reviewer: str = "") -> None:
        from trame.app import get_server
        from trame_slicer.core import SlicerApp

        self._folder = folder
        self._image_path = image
        self._session = ReviewSession(folder.directory, reviewer)
        self._maps: dict[str, Volume] = {}
        self._problems = list(folder.problems)
        self._labels: Volume | None = None
        self._box: npt.NDArray[np.float64] | None = None
        self.server = get_server("dianet-viewer", client_type="vue3")
        self._slicer = SlicerApp()
        make_views(self.server, self._slicer.view_manager)
        self._scene = Scene(self._slicer, folder.geometry)
        self._set_up_state()
        with self._scene.blocked():
            self._load()
        self._listen()
        build_page(self)

    # --- what the page's controls call ---

    def select(self, rank: int) -> None:
        """Choose a region: the views go there and show its box."""
        region = self._session.region(int(rank))
        if region is None:
            return
        self.server.state.selected = region.rank
        self._scene.jump(region.centre)
        self._scene.outline(region)

    def step(self, by: int) -> None:
        """Go on or back by some regions of the list."""
        ranks = [region.rank for region in self._session.worklist.regions]
        if ranks:
            chosen = self.server.state.selected
            at = ranks.index(chosen) + by if chosen in ranks else 0
            self.select(ranks[at % len(ranks)])

    def next_open(self) -> None:
        """Go to the next region that is not judged."""
        region = self._session.worklist.following(self.server.state.selected or None)
        if region is not None:
            self.select(region.rank)

    def judge(self, state: State) -> None:
        """Set the chosen region's state; having judged one, go to the next that is open."""
        rank = self.server.state.selected
        if state not in get_args(State) or self._session.region(rank) is None:
            return
        kept = self._session.judge(rank, state)
        self._show_worklist()
        if kept and state != "open":
            self.next_open()

    def fit(self, whole: bool) -> None:
        """Show the whole image, or the structures that were found."""
        box = None if whole else self._box
        self._scene.fit(box)
        region = self._session.region(self.server.state.selected)
        if region is not None:
            self._scene.jump(region.centre)

    # --- set-up ---

    def _set_up_state(self) -> None:
        folder, state = self._folder, self.server.state
        state.trame__title = f"DIANet: {folder.directory.name}"
        state.trame__favicon = None
        first = folder.inputs[0].title if folder.inputs else folder.directory.name
        state.case_name = first
        created = folder.created.replace("T", " ")[:16]
        state.case_lines = [str(folder.directory), f"Model {folder.model}; {created}"]
        state.warnings = list(folder.warnings)
        state.familiarity = folder.familiarity
        state.layers = [
            {"title": "No layer", "value": NO_LAYER},
            *({"title": layer.title, "value": layer.id} for layer in folder.layers),
        ]
        ids = [layer.id for layer in folder.layers]
        state.layer = next((name for name in (*_FIRST_LAYERS, *ids) if name in ids), NO_LAYER)
        state.opacity, state.threshold = _OPACITY, _THRESHOLD
        state.legend = words.legend(None, 1.0, 0.0)
        state.images = [{"title": entry.title, "value": n} for n, entry in enumerate(folder.inputs)]
        state.image = 0
        state.window, state.window_range = [0.0, 1.0], [0.0, 1.0, 0.01]
        state.image_problem = ""
        state.outlines = state.surfaces = True
        limits = LightLimits()
        state.limits = [limits.amber, limits.green]
        state.selected = 0
        state.positions = dict.fromkeys(ORIENTATIONS, "")

    def _load(self) -> None:
        folder = self._folder
        if folder.segmentation is not None:
            try:
                self._labels = read_labels(folder)
                self._box = box_of(self._labels)
                self._scene.load_segmentation(folder.segmentation)
            except DIANetError as error:
                self._problems.append(str(error))
        self._show_image(0)
        self._show_layer(self.server.state.layer)
        self._show_structures()
        self._show_worklist()
        self._scene.fit(self._box)
        first = self._session.worklist.following(None) or self._session.region(1)
        if first is not None:
            self.select(first.rank)
        for view in self._slicer.view_manager.get_slice_views():
            view.modified.connect(self._show_positions)
        self._show_positions()

    def _listen(self) -> None:
        controller = self.server.controller
        changes: dict[str, Callable[[Any], None]] = {
            "layer": self._show_layer,
            "opacity": lambda opacity: self._scene.set_opacity(_number(opacity)),
            "threshold": lambda _: self._show_threshold(),
            "image": lambda image: self._show_image(int(image)),
            "window": lambda window: self._scene.set_window(*sorted(map(float, window))),
            "limits": lambda _: self._show_structures(),
            "outlines": lambda _: self._show_segmentation(),
            "surfaces": lambda _: self._show_segmentation(),
        }
        for name, change in changes.items():
            self._on_change(name, change)
        controller.trigger("dianet_key")(self._key)
        controller.on_client_connected.add(self._add_surfaces)

    def _on_change(self, name: str, change: Callable[[Any], None]) -> None:
        """Call `change` when the page changes a value; trame also calls at its start, with what is shown."""
        seen = [self.server.state[name]]

        def changed(**values: Any) -> None:
            if values[name] != seen[0]:
                seen[0] = values[name]
                change(values[name])

        self.server.state.change(name)(changed)

    def _add_surfaces(self, **_: Any) -> None:
        labels, self._labels = self._labels, None
        if labels is None:
            return

        async def add() -> None:
            await asyncio.sleep(_SURFACES_AFTER_S)
            self._scene.add_surfaces(surface(labels, [entry.structure for entry in self._folder.structures]))
            self._show_segmentation()

        self._task = asyncio.get_event_loop().create_task(add())  # held: a loop holds its tasks weakly

    # --- from the choice to the scene and back to the page ---

    def _key(self, key: str) -> None:
        if key in _KEYS:
            self.judge(_KEYS[key])
        elif key == "n":
            self.next_open()
        elif key == "p":
            self.step(-1)

    def _layer(self, name: str) -> Layer | None:
        return next((layer for layer in self._folder.layers if layer.id == name), None)

    def _show_layer(self, name: str) -> None:
        layer = self._layer(name)
        volume = None if layer is None else self._map(layer)
        with self._scene.blocked():
            self._scene.show_layer(layer, volume, self._scale())
            self._scene.set_opacity(_number(self.server.state.opacity))
            self._show_threshold()
        self.server.state.problems = list(self._problems)

    def _map(self, layer: Layer) -> Volume | None:
        if layer.id in self._maps:
            return self._maps[layer.id]
        try:
            volume = read_layer(self._folder, layer)
        except DIANetError as error:
            if str(error) not in self._problems:
                self._problems.append(str(error))
            return None
        while len(self._maps) >= _KEPT_MAPS:
            self._maps.pop(next(iter(self._maps)))
        self._maps[layer.id] = volume
        return volume

    def _scale(self) -> float:
        layer = self._layer(self.server.state.layer)
        if layer is None or layer.id not in self._maps:
            return 1.0
        return layer.scale or max(float(self._maps[layer.id].array.max()), 1e-6)

    def _show_threshold(self) -> None:
        layer = self._layer(self.server.state.layer)
        scale, share = self._scale(), _number(self.server.state.threshold)
        shown = layer is not None and layer.id in self._maps
        self.server.state.legend = words.legend(layer if shown else None, scale, share)
        lowest = _NUMBERED_FROM if layer is not None and layer.names else scale * max(share, _LOWEST_SHARE)
        self._scene.set_threshold(lowest)

    def _show_image(self, index: int) -> None:
        state = self.server.state
        if not 0 <= index < len(self._folder.inputs):
            state.image_problem = "The result names no image; the layers are shown without one."
            return
        try:
            volume = read_image(self._folder, index, self._image_path if index == 0 else None)
        except DIANetError as error:
            state.image_problem = f"{error} The layers are shown without the image."
            self._scene.show_image(None)
            return
        low, high = grey_window(volume.array)
        least, greatest = float(volume.array.min()), float(volume.array.max())
        state.image_problem = ""
        state.window_range = [least, greatest, (greatest - least) / 500]
        state.window = [low, high]
        self._scene.show_image(volume, (low, high))

    def _show_segmentation(self) -> None:
        state = self.server.state
        self._scene.show_segmentation(outlines=bool(state.outlines), surfaces=bool(state.surfaces))

    def _show_structures(self) -> None:
        amber, green = sorted(_number(value) for value in self.server.state.limits)
        limits = LightLimits(green=green, amber=amber)
        self.server.state.structures = words.structure_rows(self._folder.structures, limits)

    def _show_worklist(self) -> None:
        state = self.server.state
        state.regions = words.region_rows(self._session.worklist, self._folder.structures)
        state.progress = words.progress(self._session.worklist)
        state.session_problem = self._session.problem

    def _show_positions(self, *_: Any) -> None:
        state = self.server.state
        with state:
            state.positions = {
                name: f"{name}, {_AXES[name]} {words.millimetres(self._scene.position_mm(name))} mm"
                for name in ORIENTATIONS
            }


def _number(value: Any) -> float:
    """A share from the page, within 0 to 1."""
    number = float(value)
    return min(1.0, max(0.0, number)) if math.isfinite(number) else 0.0
