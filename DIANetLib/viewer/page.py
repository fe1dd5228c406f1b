# SPDX-License-Identifier: Apache-2.0
"""The page of the viewer: views in the middle, where to look on the left, what is shown on the right.

Built of trame's widgets (Vuetify), which are served from this machine; nothing is fetched from elsewhere. All
text from files reaches the page through state, which its templates escape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from DIANetLib.viewer.scene import ORIENTATIONS
from DIANetLib.viewer.state import NOTICE

if TYPE_CHECKING:
    from DIANetLib.viewer.app import Viewer

__all__ = ["build_page", "slice_overlay", "solid_overlay"]

# At the left, right, upper and lower edge, in the usual radiological view.
_LETTERS = {"Axial": "RLAP", "Coronal": "RLSI", "Sagittal": "APSI"}

_STYLE = """
html, body { overflow: hidden; height: 100%; }
.dn-page { display: flex; flex-direction: column; height: 100vh; background: #121417; color: #e8eaed; }
.dn-main { display: flex; flex: 1; min-height: 0; }
.dn-side { width: 330px; flex: none; overflow-y: auto; padding: 10px 12px; font-size: 13px;
  line-height: 1.35; }
.dn-views { flex: 1; min-width: 0; display: grid; gap: 2px; background: #000;
  grid-template: minmax(0, 1fr) minmax(0, 1fr) / minmax(0, 1fr) minmax(0, 1fr); }
.dn-view { position: relative; overflow: hidden; background: #000; border: 1px solid #2b3036; }
.dn-label, .dn-letter { position: absolute; color: #fff; font-size: 13px; pointer-events: none;
  background: rgba(0, 0, 0, 0.6); border-radius: 3px; padding: 0 4px; }
.dn-label { top: 5px; right: 6px; font-variant-numeric: tabular-nums; }
.dn-letter { font-weight: 600; color: #ffd866; }
.dn-letter-left { left: 8px; top: calc(50% - 10px); }
.dn-letter-right { right: 8px; top: calc(50% - 10px); }
.dn-letter-top { top: 5px; left: calc(50% - 5px); }
.dn-letter-bottom { bottom: 30px; left: calc(50% - 5px); }
.dn-reset { position: absolute !important; top: 3px; left: 3px; background: rgba(0, 0, 0, 0.6) !important; }
.dn-slice { position: absolute !important; bottom: 0; left: 6px; right: 6px; }
.dn-title { font-size: 14px; font-weight: 600; margin: 14px 0 6px; overflow-wrap: anywhere; }
.dn-side > .dn-title:first-child { margin-top: 0; }
.dn-quiet { color: #a9b0b8; font-size: 12px; overflow-wrap: anywhere; }
.dn-region { display: grid; grid-template-columns: 22px 1fr auto; gap: 0 6px; padding: 5px 6px;
  cursor: pointer; border-radius: 4px; border: 1px solid transparent; }
.dn-region:hover { background: #22272d; }
.dn-region.dn-chosen { background: #1e3440; border-color: #78e6ff; }
.dn-region .dn-rank { color: #a9b0b8; text-align: right; }
.dn-region .dn-more { grid-column: 2 / 4; }
.dn-dot { display: inline-block; width: 11px; height: 11px; border-radius: 50%; flex: none; }
.dn-swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; flex: none; }
.dn-bar { position: relative; height: 16px; border-radius: 2px; border: 1px solid #666; }
.dn-hidden { position: absolute; left: 0; top: 0; bottom: 0; border-right: 1px solid #fff;
  background: repeating-linear-gradient(45deg, #30353b, #30353b 3px, #181b1f 3px, #181b1f 6px); }
.dn-ticks { display: flex; justify-content: space-between; font-size: 12px;
  font-variant-numeric: tabular-nums; }
.dn-buttons { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; margin: 6px 0; }
.dn-structure { padding: 5px 0; border-top: 1px solid #2b3036; }
.dn-line { display: flex; align-items: center; gap: 7px; }
.dn-notice { flex: none; text-align: center; padding: 4px 8px; background: #3a2f12; color: #ffe3a3;
  font-size: 12px; }
.dn-message { border-radius: 4px; padding: 6px 8px; margin: 0 0 6px; font-size: 12px;
  overflow-wrap: anywhere; }
.dn-warning { background: #3a2f12; color: #ffe3a3; }
.dn-problem { background: #43201f; color: #ffcfc9; }
.dn-side .v-label { font-size: 13px; opacity: 1; }
.dn-side .v-input--density-compact { --v-input-control-height: 30px; }
.dn-right { width: 350px; }
.dn-busy { position: absolute; top: 0; left: 0; right: 0; z-index: 10; }
.dn-side .v-select .v-field__input { font-size: 13px; min-height: 36px; padding-top: 4px;
  padding-bottom: 4px; }
.dn-slider { display: grid; grid-template-columns: 70px 1fr 44px; align-items: center; }
.dn-slider > :last-child { text-align: right; font-variant-numeric: tabular-nums; }
"""
# Keys for those who go through many regions; not while something is typed.
_KEYS = """
document.addEventListener("keydown", (event) => {
  const typing = ["INPUT", "TEXTAREA"].includes(event.target.tagName) && event.target.type !== "range";
  if (typing || event.ctrlKey || event.altKey || event.metaKey) return;
  if ("nascop".includes(event.key) && event.key.length === 1) {
    window.trame?.trigger("dianet_key", [event.key]);
  }
});
"""


def slice_overlay(server: Any, _view_id: str, view: Any) -> None:
    """What lies over a slice view: where it cuts, the patient's sides, a slider."""
    from trame.widgets import html
    from trame.widgets import vuetify3 as v3
    from trame_slicer.app.logic.slice_view_logic import connect_slice_view_slider_to_state

    orientation = {view: orientation for orientation, view in ORIENTATIONS.items()}[view.get_singleton_tag()]
    _buttons(view)
    html.Div(f"{{{{ positions.{orientation} }}}}", classes=f"dn-label dn-at-{orientation}")
    for letter, place in zip(_LETTERS[orientation], ("left", "right", "top", "bottom"), strict=True):
        html.Div(letter, classes=f"dn-letter dn-letter-{place}")
    slider = connect_slice_view_slider_to_state(server, view)
    v3.VSlider(
        v_model=(slider.name.value,),
        min=(slider.name.min_value,),
        max=(slider.name.max_value,),
        step=(slider.name.step,),
        hide_details=True,
        density="compact",
        color="#4fc3f7",
        classes=f"dn-slice dn-slice-{orientation}",
    )


def solid_overlay(_server: Any, _view_id: str, view: Any) -> None:
    """What lies over the 3-D view."""
    _buttons(view)


def _buttons(view: Any) -> None:
    from trame.widgets import vuetify3 as v3

    v3.VBtn(
        icon="mdi-fit-to-screen-outline",
        click=view.reset_view,
        size="x-small",
        variant="text",
        color="white",
        classes="dn-reset",
        title="Fit into the view",
    )


def build_page(viewer: Viewer) -> None:
    """Lay out the page of a viewer; its state has to be there already."""
    from trame.ui.vuetify3 import VAppLayout
    from trame.widgets import client, html
    from trame.widgets import vuetify3 as v3

    with VAppLayout(viewer.server, theme="dark"):
        client.Style(_STYLE)
        client.Script(_KEYS)
        with html.Div(classes="dn-page"):
            with html.Div(classes="dn-busy", v_if="trame__busy"):
                v3.VProgressLinear(indeterminate=True, height=3, color="#4fc3f7")
            with html.Div(classes="dn-main"):
                with html.Div(classes="dn-side dn-left"):
                    _case()
                    _worklist(viewer)
                with html.Div(classes="dn-views"):
                    for name in (*ORIENTATIONS.values(), "ThreeD"):
                        with html.Div(classes=f"dn-view dn-view-{name}"):
                            client.ServerTemplate(name=name)
                with html.Div(classes="dn-side dn-right"):
                    _layer()
                    _image(viewer)
                    _structures()
            html.Div(NOTICE, classes="dn-notice")


def _case() -> None:
    from trame.widgets import html

    html.Div("{{ case_name }}", classes="dn-title")
    html.Div("{{ line }}", v_for="line in case_lines", key="line", classes="dn-quiet")
    html.Div(classes="mb-2")
    html.Div(
        "{{ text }}",
        v_for="text in problems",
        key="text",
        classes="dn-message dn-problem",
    )
    html.Div("{{ text }}", v_for="text in warnings", key="text", classes="dn-message dn-warning")


def _worklist(viewer: Viewer) -> None:
    from trame.widgets import html
    from trame.widgets import vuetify3 as v3

    html.Div("Where to look", classes="dn-title")
    html.Div("{{ progress.text }}", classes="dn-quiet dn-progress")
    v3.VProgressLinear(
        model_value=("progress.percent",), height=6, rounded=True, color="#4fc3f7", classes="my-1"
    )
    html.Div("{{ session_problem }}", v_if="session_problem", classes="dn-message dn-problem dn-session mt-2")
    with html.Div(classes="dn-buttons", v_if="regions.length"):
        for text, key, state, color in (
            ("Accept", "a", "accepted", "#2e7d32"),
            ("Corrected elsewhere", "c", "corrected", "#0277bd"),
            ("Skip", "s", "skipped", "#8d6e00"),
            ("Open again", "o", "open", "#424a52"),
        ):
            v3.VBtn(
                text,
                click=(viewer.judge, f"['{state}']"),
                color=color,
                disabled=("selected === 0",),
                size="small",
                variant="flat",
                classes=f"text-none dn-set-{state}",
                title=f"Key: {key}",
            )
        v3.VBtn(
            "Previous",
            click=(viewer.step, "[-1]"),
            size="small",
            variant="outlined",
            classes="text-none dn-previous",
            title="Key: p",
        )
        v3.VBtn(
            "Next open",
            click=viewer.next_open,
            size="small",
            variant="outlined",
            classes="text-none dn-next",
            title="Key: n",
        )
    html.Div(
        "Keys: a, c, s, o for the four states, n for the next open region, p for the previous one",
        v_if="regions.length",
        classes="dn-quiet mb-1",
    )
    with html.Div(
        v_for="row in regions",
        key="row.rank",
        classes=("`dn-region dn-region-${row.rank} ` + (row.rank === selected ? 'dn-chosen' : '')",),
        click=(viewer.select, "[row.rank]"),
    ):
        html.Span("{{ row.rank }}", classes="dn-rank")
        html.Span("{{ row.where }}")
        html.Span("{{ row.expected }}", title="Expected to be wrong", style="white-space: nowrap")
        with html.Span(classes="dn-more dn-quiet"):
            html.Span("● ", style=("`color: ${row.state_color}`",))
            html.Span("{{ row.state_word }}", classes="dn-state")
            html.Span(" · {{ row.details }}", v_if="row.rank === selected")


def _layer() -> None:
    from trame.widgets import html
    from trame.widgets import vuetify3 as v3

    html.Div("Layer", classes="dn-title")
    v3.VSelect(
        v_model=("layer",),
        items=("layers",),
        density="compact",
        hide_details=True,
        variant="outlined",
        classes="dn-layer",
        menu_props=("{ maxHeight: 560 }",),
    )
    with html.Div(v_if="legend.title", classes="dn-legend mt-3"):
        with html.Div(
            classes="dn-bar", style=("`background: ${legend.gradient}`",), v_if="!legend.names.length"
        ):
            html.Div(classes="dn-hidden", style=("`width: ${legend.hidden}%`",))
        with html.Div(classes="dn-ticks", v_if="!legend.names.length"):
            html.Span("{{ tick }}", v_for="(tick, n) in legend.ticks", key="n")
        with html.Div(classes="dn-line", v_for="entry in legend.names", key="entry.name"):
            html.Span(classes="dn-swatch", style=("`background: ${entry.color}`",))
            html.Span("{{ entry.name }}")
        html.Div("{{ legend.unit }}", classes="dn-unit", style="text-align: center")
        _slider("Opacity", "opacity", "{{ Math.round(opacity * 100) }} %")
        with html.Div(v_if="!legend.names.length"):
            _slider("Threshold", "threshold", "{{ Math.round(threshold * 100) }} %")
            html.Div("{{ legend.text }}", classes="dn-quiet dn-hidden-below")


def _slider(title: str, name: str, shown: str) -> None:
    from trame.widgets import html
    from trame.widgets import vuetify3 as v3

    with html.Div(classes="dn-slider"):
        html.Span(title)
        v3.VSlider(
            v_model=(name,),
            min=0,
            max=1,
            step=0.01,
            density="compact",
            hide_details=True,
            classes=f"dn-{name}",
            color="#4fc3f7",
        )
        html.Span(shown)


def _image(viewer: Viewer) -> None:
    from trame.widgets import html
    from trame.widgets import vuetify3 as v3

    html.Div("Image", classes="dn-title")
    v3.VSelect(
        v_if="images.length > 1",
        v_model=("image",),
        items=("images",),
        density="compact",
        hide_details=True,
        variant="outlined",
        classes="dn-image mb-1",
    )
    html.Div("{{ image_problem }}", v_if="image_problem", classes="dn-message dn-problem dn-image-problem")
    with html.Div(classes="dn-slider", v_if="!image_problem"):
        html.Span("Window")
        v3.VRangeSlider(
            v_model=("window",),
            min=("window_range[0]",),
            max=("window_range[1]",),
            step=("window_range[2]",),
            density="compact",
            hide_details=True,
            classes="dn-window",
            color="#4fc3f7",
            style="grid-column: 2 / 4",
        )
    for title, name in (("Outlines in the slices", "outlines"), ("Surfaces in 3-D", "surfaces")):
        v3.VCheckbox(
            v_model=(name,),
            label=title,
            density="compact",
            hide_details=True,
            classes=f"dn-{name}",
            color="#4fc3f7",
        )
    with html.Div(classes="dn-buttons"):
        for title, whole in (("Fit structures", "false"), ("Fit whole image", "true")):
            v3.VBtn(
                title,
                click=(viewer.fit, f"[{whole}]"),
                size="small",
                variant="outlined",
                classes=f"text-none dn-fit-{whole}",
            )


def _structures() -> None:
    from trame.widgets import html
    from trame.widgets import vuetify3 as v3

    html.Div("Structures", classes="dn-title")
    with html.Div(classes="dn-structure", v_for="row in structures", key="row.key"):
        with html.Div(classes="dn-line"):
            html.Span(classes="dn-swatch", style=("`background: ${row.color}`",))
            html.Span("{{ row.name }}", style="flex: 1")
            html.Span("{{ row.volume }}", style="white-space: nowrap")
        with html.Div(classes="dn-line dn-quality"):
            html.Span(classes="dn-dot", style=("`background: ${row.light_color}`",))
            html.Span("{{ row.quality }}", style="flex: 1")
            html.Span("{{ row.light_word }}", style=("`color: ${row.light_color}`",), classes="dn-light")
    html.Div("{{ familiarity }}", v_if="familiarity", classes="dn-quality dn-familiarity")
    with html.Div(classes="dn-slider mt-2"):
        html.Span("Lights")
        v3.VRangeSlider(
            v_model=("limits",),
            min=0,
            max=1,
            step=0.01,
            density="compact",
            hide_details=True,
            classes="dn-limits",
            color="#4fc3f7",
            style="grid-column: 2 / 4",
        )
    html.Div(
        "Green from {{ limits[1].toFixed(2) }}, amber from {{ limits[0].toFixed(2) }}, red below.",
        classes="dn-quiet dn-limits-text",
    )
