# SPDX-License-Identifier: Apache-2.0
"""The browser viewer of output folders: `dianet view`.

`folder`, `layers`, `session` and `access` know nothing of the browser or of VTK. `scene` draws with Slicer's
own MRML and rendering (slicer-core through trame-slicer, without Qt), `page` lays out what the browser shows,
`app` joins them, `serve` listens. Slicer and trame are imported when the viewer starts, not before
(docs/decisions/0006-the-viewer.md).
"""
