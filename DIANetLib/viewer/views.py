# SPDX-License-Identifier: Apache-2.0
"""The three slice views and the 3-D view, drawn here and shown in the browser as pictures.

trame-slicer's own factories draw each view while it is made, once per displayable manager, which takes as
long as all the rest of the start. Here a view draws nothing until the browser asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from DIANetLib.viewer.page import slice_overlay, solid_overlay
from DIANetLib.viewer.scene import ORIENTATIONS

if TYPE_CHECKING:
    from trame_slicer.core import ViewManager

__all__ = ["SOLID", "make_views"]

#: Name of the 3-D view.
SOLID = "ThreeD"
_INTERACTIVE_QUALITY = 70  # JPEG, while something moves; the picture that stays has 90


def make_views(server: Any, manager: ViewManager) -> None:
    """Make the four views, with their part of the page.

    Args:
        server: trame's.
        manager: trame-slicer's list of views.
    """
    from trame_slicer.rca_view import RemoteViewFactory
    from trame_slicer.views import SliceView, ThreeDView, ViewLayoutDefinition, ViewType

    for kind, view_type, overlay in (
        (SliceView, ViewType.SLICE_VIEW, slice_overlay),
        (ThreeDView, ViewType.THREE_D_VIEW, solid_overlay),
    ):
        manager.register_factory(
            RemoteViewFactory(
                server,
                _silent(kind),
                view_type=view_type,
                populate_view_ui_f=overlay,
                interactive_quality=_INTERACTIVE_QUALITY,
            )
        )
    for definition in (
        ViewLayoutDefinition.axial_view(),
        ViewLayoutDefinition.coronal_view(),
        ViewLayoutDefinition.sagittal_view(),
        ViewLayoutDefinition.threed_view(name=SOLID, background_color="#181b1f"),
    ):
        manager.create_view(definition)
    for view in manager.get_threed_views():
        view.renderer().SetUseDepthPeeling(False)  # nothing is transparent, and without a GPU it is slow
    manager.set_current_view_ids([*ORIENTATIONS.values(), SOLID])


def _silent(kind: Any) -> Any:
    """A maker of views that do not draw until the factory gives them a scheduler."""
    from trame_slicer.views import NoScheduleRendering

    return lambda **arguments: kind(scheduled_render_strategy=NoScheduleRendering(), **arguments)
