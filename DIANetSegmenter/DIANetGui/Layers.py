# SPDX-License-Identifier: Apache-2.0
"""Showing layers."""

from __future__ import annotations

from typing import Any

from .ColorNodes import colorNode
from .LayerKeys import LayerKey
from .Scene import Environment


def styleLayerNode(environment: Environment, node: Any, key: LayerKey) -> None:
    """Give a new layer's node its display: a fixed scale, DIANet's colours."""
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(colorNode(environment).GetID())
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0.0, key.scale)
