# SPDX-License-Identifier: Apache-2.0
"""What the panel is set to, as Slicer keeps it in a scene.

There is no connector from widgets to lists of nodes, so each input has a parameter of its own.
"""

from __future__ import annotations

from typing import Annotated

from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

__all__ = ["INPUTS", "Parameters", "parameterNode"]

#: Parameters of the inputs, in the order of a model's modalities.
INPUTS = ("input1", "input2", "input3", "input4")
_NAME = "DIANetSegmenter"


@parameterNodeWrapper
class Parameters:
    """The panel's settings; see `DIANetGui.Settings` for what a run makes of them.

    Attributes:
        model: Name of the model; empty before one was chosen.
        input1: First volume, in the order of the model's modalities.
        input2: Second volume.
        input3: Third volume.
        input4: Fourth volume.
        roi: Where to look.
        device: As the worker names it.
        samples: Stochastic passes; 0 for what suits the model, one pass or ten samples.
        addResult: Keep earlier results; otherwise a new one takes the current one's place.
        result: Segmentation node of the current result.
        surfaces: Whether its structures are shown in 3-D.
        layer: Id of the layer that is shown; empty for none.
        layer2: Id of the layer over it.
        opacity: Of the layers.
        threshold: Part of the scale below which a layer is transparent.
        colorMap: Name of the layers' colour map; empty for the default.
        legend: Whether the colour scale is shown.
        reviewThreshold: Error probability from which on a voxel counts.
        reviewMinimum: Smallest region listed, mm³.
        reviewMaximum: Most regions listed.
    """

    model: str = ""
    input1: vtkMRMLScalarVolumeNode
    input2: vtkMRMLScalarVolumeNode
    input3: vtkMRMLScalarVolumeNode
    input4: vtkMRMLScalarVolumeNode
    roi: vtkMRMLMarkupsROINode
    device: str = "auto"
    samples: Annotated[int, WithinRange(0, 50)] = 0
    addResult: bool = False
    result: vtkMRMLSegmentationNode
    surfaces: bool = False
    layer: str = ""
    layer2: str = ""
    opacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.6
    threshold: Annotated[float, WithinRange(0.0, 1.0)] = 0.1
    colorMap: str = ""
    legend: bool = True
    reviewThreshold: Annotated[float, WithinRange(0.05, 0.95)] = 0.2
    reviewMinimum: Annotated[float, WithinRange(0.0, 100000.0)] = 10.0
    reviewMaximum: Annotated[int, WithinRange(1, 200)] = 20


def parameterNode(scene) -> Parameters:
    """The scene's one parameter node of this module, made where there is none."""
    node = scene.GetSingletonNode(_NAME, "vtkMRMLScriptedModuleNode")
    if node is None:
        node = scene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        node.SetSingletonTag(_NAME)
        node.SetName(_NAME)
        node = scene.AddNode(node)
    # Closing a scene takes the attribute away and leaves the node.
    node.SetAttribute("ModuleName", _NAME)
    return Parameters(node)
