# SPDX-License-Identifier: Apache-2.0
"""Slicer's module Segment Editor: opened on a place, and left again.

What an edit is, and how everything else is protected: `DIANetGui.Editing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import slicer

from .Editing import configure

if TYPE_CHECKING:
    from .Editing import Edit
    from .Results import Result

__all__ = ["ModuleEditor"]

_EDITOR, _HOME = "SegmentEditor", "DIANetSegmenter"


class ModuleEditor:
    """The Segment Editor of the running application."""

    def __init__(self) -> None:
        self._showsSource: bool | None = None  # what `autoShowSourceVolumeNode` was before

    def open(self, result: Result, edit: Edit) -> None:
        """Show the Segment Editor, set to an edit, with the brush in hand."""
        slicer.util.selectModule(_EDITOR)
        editor = slicer.util.getModuleWidget(_EDITOR).editor
        self._configure(editor, result, edit)

    def leave(self) -> None:
        """Let the Segment Editor show its source volumes again as it did before."""
        if self._showsSource is not None:
            self._restore(slicer.util.getModuleWidget(_EDITOR).editor)

    def goHome(self) -> None:
        """Show DIANet's module again."""
        slicer.util.selectModule(_HOME)

    def _configure(self, segmentEditor: Any, result: Result, edit: Edit) -> None:
        # Not to lay the copy of the image, which ends at the place, over the image in the views.
        if self._showsSource is None:
            self._showsSource = segmentEditor.autoShowSourceVolumeNode
        segmentEditor.autoShowSourceVolumeNode = False
        configure(result, edit)
        segmentEditor.setActiveEffectByName("Paint")

    def _restore(self, segmentEditor: Any) -> None:
        segmentEditor.autoShowSourceVolumeNode = self._showsSource
        self._showsSource = None
