# SPDX-License-Identifier: Apache-2.0
"""The worker's messages turned into what the rest of the module uses."""

from __future__ import annotations

from typing import Any

from DIANetLib.errors import DIANetError, WorkerError
from DIANetLib.structures import Code, Structure
from DIANetLib.worker import protocol
from DIANetLib.worker.connection import error_of

from .Translate import tr as _


def errorOf(failed: protocol.Failed) -> DIANetError:
    """The error that a worker's message stands for."""
    if failed.kind == "internal" and failed.remedy is None:
        remedy = _("Open Set-up and log, click Copy report, and report this with what it says.")
        return WorkerError(failed.message, remedy=remedy)
    return error_of(failed)


def structureOf(info: protocol.StructureInfo) -> Structure:
    """The library's structure that a message describes."""

    def code(term: protocol.CodeInfo) -> Code:
        return Code(term.scheme, term.value, term.meaning)

    return Structure(
        value=info.value,
        key=info.key,
        name=info.name,
        color=info.color,
        category=code(info.category),
        type=code(info.type),
        modifier=None if info.modifier is None else code(info.modifier),
    )


def filesOf(payload: Any) -> tuple[protocol.SharedVolume, ...]:
    """The files that a result names; they belong to the client."""
    if isinstance(payload, protocol.Segmented):
        return (payload.labels, *(entry.volume for entry in payload.maps))
    if isinstance(payload, protocol.Explained):
        return tuple(entry.volume for entry in payload.maps)
    return ()
