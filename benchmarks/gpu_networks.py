"""The networks whose steps and calls `gpu.py` measures."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from gpu_report import SEED

import lctprune as lct
from lctprune.models.images import least_resnet_width


class Network(NamedTuple):
    """A network and the samples per step that it is measured with."""

    recipe: lct.NetworkConfig
    batch: int


NETWORKS = {
    "ResNet-18 at 32x32, batch 512": Network(lct.NetworkConfig(model="resnet18", image_size=32), 512),
    "ResNet-50 at 224x224, batch 128": Network(
        lct.NetworkConfig(model="resnet50", image_size=224, num_outputs=1000), 128
    ),
    "ViT-B/16 at 224x224, batch 64": Network(lct.NetworkConfig(model="vit_b_16", image_size=224, num_outputs=1000), 64),
}
QUICK = {
    "ResNet-18 at 16x16, batch 8": Network(
        lct.NetworkConfig(model="resnet18", image_size=16, model_args={"width": least_resnet_width(16)}, groups=2), 8
    )
}


def build(network: Network, groups: int) -> lct.LocalCriticNetwork:
    """Build a network once, on the CPU; cutting a large one takes seconds."""
    key = network.recipe.model, network.recipe.image_size, groups
    if key not in _built:
        torch.manual_seed(SEED)
        _built[key] = lct.build_network(dataclasses.replace(network.recipe, groups=groups))
    return _built[key]


_built: dict[tuple[str, int, int], lct.LocalCriticNetwork] = {}
