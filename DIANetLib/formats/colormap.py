# SPDX-License-Identifier: Apache-2.0
"""A dark-to-bright colour map for uncertainty and relevance, computed rather than tabulated.

Lightness (CIE L*) rises linearly, so that equal steps in the value look like equal steps, in greyscale and to
colour-blind readers too; hue turns from violet over red to yellow, in the manner of the map "inferno". CIELAB
to sRGB as in IEC 61966-2-1, white point D65.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["color_table", "css_gradient"]

_D65 = np.array([0.95047, 1.0, 1.08883])
_XYZ_TO_RGB = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)
# Anchors over the value 0..1: hue in degrees of the (a*, b*) plane, and the chroma aimed at; where sRGB
# cannot show that much chroma at that lightness, the greatest it can show is taken.
_AT = (0.0, 0.15, 0.35, 0.55, 0.75, 1.0)
_HUE = (285.0, 305.0, 345.0, 392.0, 425.0, 460.0)
_CHROMA = (10.0, 42.0, 62.0, 72.0, 74.0, 55.0)
_LIGHTNESS = (2.0, 95.0)


@lru_cache(maxsize=4)
def color_table(entries: int = 256) -> npt.NDArray[np.uint8]:
    """Colours for `entries` evenly spaced values from 0 to 1.

    Returns:
        (entries, 3) uint8 sRGB, read-only; the first is nearly black, the last pale yellow.
    """
    value = np.linspace(0.0, 1.0, entries)
    lightness = np.interp(value, (0.0, 1.0), _LIGHTNESS)
    hue = np.radians(np.interp(value, _AT, _HUE))
    chroma = np.interp(value, _AT, _CHROMA)
    shown: npt.NDArray[np.float64] = np.zeros(entries)
    beyond: npt.NDArray[np.float64] = chroma
    for _ in range(24):  # bisection for the greatest chroma that sRGB can show
        tried = np.where(_in_gamut(lightness, beyond, hue), beyond, (shown + beyond) / 2)
        fits = _in_gamut(lightness, tried, hue)
        shown, beyond = np.where(fits, tried, shown), np.where(fits, beyond, tried)
    linear = np.clip(_linear_rgb(lightness, shown, hue), 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    table = np.round(encoded * 255).astype(np.uint8)
    table.setflags(write=False)
    return table


def css_gradient(stops: int = 17, direction: str = "to right") -> str:
    """The colour map as a CSS `linear-gradient`, for colour bars that stay sharp at any size."""
    colors = ", ".join("#{:02x}{:02x}{:02x}".format(*color) for color in color_table(stops).tolist())
    return f"linear-gradient({direction}, {colors})"


def _linear_rgb(
    lightness: npt.NDArray[np.float64], chroma: npt.NDArray[np.float64], hue: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """CIELAB in polar form, each (N,), to linear sRGB (N, 3), not clipped."""
    y = (lightness + 16.0) / 116.0
    f = np.stack([y + chroma * np.cos(hue) / 500.0, y, y - chroma * np.sin(hue) / 200.0], axis=1)
    delta = 6.0 / 29.0
    xyz = np.where(f > delta, f**3, 3 * delta**2 * (f - 4.0 / 29.0)) * _D65
    linear: npt.NDArray[np.float64] = xyz @ _XYZ_TO_RGB.T
    return linear


def _in_gamut(
    lightness: npt.NDArray[np.float64], chroma: npt.NDArray[np.float64], hue: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    linear = _linear_rgb(lightness, chroma, hue)
    return np.asarray(((linear >= -1e-6) & (linear <= 1.0 + 1e-6)).all(axis=1))
