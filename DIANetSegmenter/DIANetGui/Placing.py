# SPDX-License-Identifier: Apache-2.0
"""A worker's answer placed in the scene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from DIANetLib.worker.protocol import Segmented, SharedVolume

from .LayerSource import EAGER_STRUCTURES, PER_STRUCTURE
from .Results import LayerKey, Result
from .Scene import Environment, batch

if TYPE_CHECKING:
    from .Settings import Settings

__all__ = ["placed"]


def placed(
    environment: Environment, exchange: Any, identifier: str, settings: Settings, payload: Segmented
) -> tuple[Result, dict[str, SharedVolume]]:
    """Make a result of an answer, with the layers that it shows at once.

    Args:
        environment: Scene and logics.
        exchange: Where the answer's files are.
        identifier: Of the request.
        settings: What was asked for.
        payload: The answer.

    Returns:
        The result, and the files of layers that wait until they are chosen, by the layers' ids.

    Raises:
        DIANetError: It could not be made; the scene is as it was then.
    """
    eager = len(payload.structures) <= EAGER_STRUCTURES
    waiting: dict[str, SharedVolume] = {}
    result = None
    try:
        labels = exchange.read(payload.labels)
        with batch(environment.scene):  # views and lists follow once, not with every layer
            result = Result.create(
                environment,
                identifier,
                settings.inputNodes,
                payload,
                labels,
                modalities=settings.modalities,
            )
            for entry in payload.maps:
                key = LayerKey(entry.kind, entry.structure)
                if eager or entry.kind not in PER_STRUCTURE:
                    result.addLayer(key, exchange.read(entry.volume))
                else:
                    waiting[key.id] = entry.volume
    except Exception:
        if result is not None:
            result.remove()
        raise
    return result, waiting
