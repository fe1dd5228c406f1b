# SPDX-License-Identifier: Apache-2.0
"""Colour nodes of the layers: DIANet's own map, and those of Slicer's that rise from dark to bright."""

from __future__ import annotations

from typing import Any

from .Scene import Environment, nodesOf

__all__ = ["COLOR_MAPS", "DEFAULT_COLOR_MAP", "availableColorMaps", "colorNode"]

DEFAULT_COLOR_MAP = "Uncertainty"
#: Colour maps that are offered, as far as the scene has them.
COLOR_MAPS: tuple[str, ...] = (
    DEFAULT_COLOR_MAP,
    "Inferno",
    "Magma",
    "Plasma",
    "Viridis",
    "Cividis",
    "Iron",
    "Grey",
)

_SINGLETON = "DIANetUncertainty"
_NODE_CLASS = "vtkMRMLColorTableNode"


def availableColorMaps(environment: Environment) -> tuple[str, ...]:
    """Those of `COLOR_MAPS` that can be had."""
    return tuple(name for name in COLOR_MAPS if name == DEFAULT_COLOR_MAP or _found(environment, name))


def colorNode(environment: Environment, name: str = DEFAULT_COLOR_MAP) -> Any:
    """The colour node of that name; DIANet's own where the scene has none of that name."""
    found = None if name == DEFAULT_COLOR_MAP else _found(environment, name)
    return found or _ownNode(environment.scene)


def _found(environment: Environment, name: str) -> Any:
    nodes = nodesOf(environment.scene, "vtkMRMLColorNode")
    return next((node for node in nodes if node.GetName() == name), None)


def _ownNode(scene: Any) -> Any:
    node = scene.GetSingletonNode(_SINGLETON, _NODE_CLASS)
    if node is not None:
        return node
    from DIANetLib.formats.colormap import color_table

    node = scene.CreateNodeByClass(_NODE_CLASS)
    node.UnRegister(None)
    node.SetSingletonTag(_SINGLETON)
    node.SetName(DEFAULT_COLOR_MAP)
    node.SetTypeToUser()
    # An attribute that lists of colours in Slicer group by.
    node.SetAttribute("Category", "DIANet")
    table = color_table(256) / 255.0
    node.SetNumberOfColors(len(table))
    for index, (red, green, blue) in enumerate(table.tolist()):
        node.SetColor(index, f"{index / (len(table) - 1):.3f}", red, green, blue, 1.0)
    return scene.AddNode(node)
