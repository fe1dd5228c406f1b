# SPDX-License-Identifier: Apache-2.0
"""Translation of what users read: Slicer's own where it is there, else the English text.

Text with values in it is made with `str.format` afterwards, so that translators see one sentence.
"""

from __future__ import annotations

__all__ = ["tr"]

try:
    from slicer.i18n import tr  # not wrapped: it finds the text's context in the file of its caller
except ImportError:  # outside Slicer, as in tests

    def tr(text: str) -> str:
        """The text itself."""
        return text
