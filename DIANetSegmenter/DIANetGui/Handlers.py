# SPDX-License-Identifier: Apache-2.0
"""What every handler of a click has in common: what goes wrong in it is told in a dialog."""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable
from typing import Any

import slicer

from DIANetLib.errors import Cancelled, DIANetError

from .Translate import tr as _

__all__ = ["handler", "showError"]

_TITLE = "DIANet"
_logger = logging.getLogger("DIANet")


def handler(method: Callable[..., None]) -> Callable[..., None]:
    """Let a method be connected to a signal or a node's event; the arguments of those are dropped."""

    # It takes what comes: PythonQt leaves out what a callable has no place for, VTK does not.
    @functools.wraps(method)
    def handle(self: Any, *_arguments: Any) -> None:
        try:
            method(self)
        except Exception as error:
            showError(error)

    return handle


def showError(error: Exception) -> None:
    """Tell an error in a dialog (in a test run: in the log)."""
    if isinstance(error, Cancelled):
        return
    if isinstance(error, DIANetError):
        text = error.message if error.remedy is None else f"{error.message}\n\n{error.remedy}"
        slicer.util.errorDisplay(text, windowTitle=_TITLE)
        return
    _logger.error("Unexpected error", exc_info=error)
    text = _("Something went wrong that DIANet did not expect: {error}.\n\n{remedy}").format(
        error=error or type(error).__name__,
        remedy=_("Open Set-up and log, click Copy report, and report this with what it says."),
    )
    details = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    slicer.util.errorDisplay(text, windowTitle=_TITLE, detailedText=details)
