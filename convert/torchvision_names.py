"""torchvision's names for a ResNet50's layers, which some ports of these networks use: names are not geometry.

torchvision's own network has a stage's stride on its 3x3 and pads its pooling; a port from Caffe under the same names
has the published geometry. The file does not say which, so the user must, or its code is run (``--reference-code``).
"""

from __future__ import annotations

import re

#: A tensor in every such file.
MARKER = "layer1.0.conv1.weight"

PARTS = {
    "conv1": "_1x1_reduce", "bn1": "_1x1_reduce_bn", "conv2": "_3x3", "bn2": "_3x3_bn", "conv3": "_1x1_increase",
    "bn3": "_1x1_increase_bn", "downsample.0": "_1x1_proj", "downsample.1": "_1x1_proj_bn", "se.fc1": "_1x1_down",
    "se.fc2": "_1x1_up", "conv_down": "_1x1_down", "conv_up": "_1x1_up",
}  # fmt: skip

FIRST = {"conv1": "conv1_7x7_s2", "bn1": "conv1_7x7_s2_bn"}

NOTE = "its names are torchvision's, which do not determine the geometry; the user confirmed the published one"


def published_layer(layer: str) -> str:
    """``layer2.0.downsample.0`` -> ``conv3_1_1x1_proj``; any other name as it is."""
    found = re.fullmatch(r"layer([1-4])\.(\d)\.(.+)", layer)
    if found and found[3] in PARTS:
        return f"conv{int(found[1]) + 1}_{int(found[2]) + 1}{PARTS[found[3]]}"
    return FIRST.get(layer, layer)


def published_name(name: str) -> str:
    """The same for a tensor: ``layer2.0.bn1.weight`` -> ``conv3_1_1x1_reduce_bn.weight``."""
    layer, dot, role = name.rpartition(".")
    return f"{published_layer(layer)}{dot}{role}"
