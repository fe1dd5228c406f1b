# SPDX-License-Identifier: Apache-2.0
"""Layers that a result can get but that have no node yet.

A map per structure of a whole head takes 35 MB, so results with many structures leave theirs in files of the
exchange folder until they are chosen. Grad-CAM of the latest results can be had from the worker, which keeps
what its network read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from DIANetLib.worker.protocol import KEPT_RESULTS, SharedVolume

if TYPE_CHECKING:
    from .Results import LayerKey, ResultRecord

#: Results with more structures than this get their layers per structure when they are chosen.
EAGER_STRUCTURES = 8
#: Kinds of layer that there is one of per structure.
PER_STRUCTURE = ("variance", "gradcam")

_ORDER = ("total", "epistemic", "aleatoric", "heteroscedastic", "error", "attention", "path", *PER_STRUCTURE)


class LayerSource:
    """Where the layers without nodes come from."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, SharedVolume]] = {}  # result id -> layer id -> file
        self._kept: list[str] = []  # results that the worker can explain, the latest last

    def add(self, result: str, files: Mapping[str, SharedVolume]) -> None:
        """Note a new result of the worker, and its files that wait."""
        self._files[result] = dict(files)
        self._kept = [*self._kept, result][-KEPT_RESULTS:]

    def take(self, result: str, layer: str) -> SharedVolume | None:
        """The file of a layer, which the caller reads and deletes; None if there is none."""
        return self._files.get(result, {}).pop(layer, None)

    def drop(self, exchange: Any, *results: str) -> None:
        """Delete the files of results, of all of them where none is named."""
        for result in results or tuple(self._files):
            files = self._files.pop(result, {})
            if exchange is not None:
                exchange.delete(*files.values())

    def forgetWorker(self) -> None:
        """The worker is gone or has forgotten its results; files stay."""
        self._kept.clear()

    def canExplain(self, result: str) -> bool:
        """Whether the worker can still explain a result."""
        return result in self._kept

    def keys(self, record: ResultRecord) -> tuple[LayerKey, ...]:
        """All layers that a result has or can get, those of the whole image first."""
        from .Results import LayerKey

        keys = [LayerKey.parse(text) for text in (*record.layers, *self._files.get(record.id, {}))]
        if self.canExplain(record.id):
            keys += [LayerKey("gradcam", structure.key) for structure in record.structures]
        position = {structure.key: n for n, structure in enumerate(record.structures)}

        def place(key: LayerKey) -> tuple[int, int]:
            return _ORDER.index(key.kind), position.get(key.structure or "", -1)

        return tuple(sorted(dict.fromkeys(keys), key=place))
