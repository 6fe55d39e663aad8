"""What every process of several builds before training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import lctprune as lct
from lctprune.config.network import NetworkConfig
from lctprune.workflows.session import begin, skeleton
from lctprune.workflows.session_settings import SessionSettings

RECIPES = {
    "resnet18": NetworkConfig(model="resnet18", groups=3, image_size=16),
    "lstm": NetworkConfig(model="lstm", groups=2, vocabulary=20, steps=6),
}
OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, num_classes)
        self.register_buffer("scale", torch.rand(6), persistent=False)

    def forward(self, x):
        return self.last(self.first(x).relu() * self.scale)
"""


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_skeleton_has_the_networks_shape_and_takes_no_memory(recipe: NetworkConfig) -> None:
    network = lct.build_network(recipe)
    assert network.recipe is not None
    empty = skeleton(network.recipe, seed=0)
    assert all(tensor.is_meta for tensor in [*empty.parameters(), *empty.buffers()])
    assert empty.cuts == network.cuts
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in network.state_dict().items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in empty.state_dict().items()} == expected
    filled = empty.to_empty(device="cpu")
    filled.load_state_dict(network.state_dict())
    x = recipe.example
    assert torch.equal(filled.eval()(x), network.eval()(x))


def test_what_no_state_dict_holds_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unsaved_scale.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    torch.manual_seed(3)
    network = lct.build_network(NetworkConfig(model="unsaved_scale:Net", groups=2, features=4, num_outputs=2))
    assert network.recipe is not None
    built = skeleton(network.recipe, seed=3)
    for ours, theirs in zip(network.buffers(), built.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_cuts_suit_the_sessions_training(tmp_path: Path) -> None:
    network = NetworkConfig(model="vgg-lct", model_args={"width": 8}, balance="memory")
    cuts = {
        size: begin(
            SessionSettings(
                network=network,
                data=lct.DataConfig(name="digits"),
                training=lct.TrainConfig(batch_size=size),
                out=tmp_path / str(size),
            )
        ).network.cuts
        for size in (1, 1024)
    }
    assert cuts[1] != cuts[1024]
