"""What a user has frozen stays as it is, to the bit, whatever trains the network: weights, statistics, modes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

import lctprune as lct
from lctprune.errors import PartitionError
from lctprune.training.compilation import compiled


def conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.Dropout(0.2))


class Transfer(nn.Module):
    """A backbone, and new layers on it."""

    def __init__(self, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv(1, 4), conv(4, 4)) if backbone is None else backbone
        self.neck = conv(4, 4)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.backbone(x)))


class Overridden(Transfer):
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.backbone.eval()
        self.backbone.requires_grad_(False)  # only here
        return self


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(1, 4), conv(4, 4)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class OwnStatistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = conv(1, 4)
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
        return self.layer(x - self.mean)


def frozen(model: Transfer) -> Transfer:
    model.backbone.requires_grad_(False)
    return model


def left_in_evaluation(model: Transfer) -> Transfer:
    model.backbone.eval()
    return frozen(model)


MODELS: dict[str, Callable[[], Transfer]] = {
    "requires_grad": lambda: frozen(Transfer()),
    "left in evaluation mode": lambda: left_in_evaluation(Transfer()),
    "train of the network": Overridden,
    "train of a submodule": lambda: Transfer(Backbone()),
    "FrozenBatchNorm2d": lambda: frozen(Transfer(nn.Sequential(nn.Conv2d(1, 4, 3), FrozenBatchNorm2d(4)))),
    "statistics of one's own": lambda: frozen(Transfer(OwnStatistics())),
}
WAYS: dict[str, tuple[int, dict[str, Any]]] = {
    "local critics": (3, {"optimizer": "muon"}),
    "joint": (2, {"method": "joint", "optimizer": "adamw"}),
    "backprop": (1, {"method": "backprop", "optimizer": "sgd"}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_backbone_stays_as_it_is(name: str, way: str, data: lct.Data, tmp_path: Path) -> None:
    groups, settings = WAYS[way]
    model = MODELS[name]()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    network = lct.attach_critics(model, data.example, num_outputs=3, groups=groups)
    config = lct.TrainConfig(epochs=1, batch_size=32, device="cpu", weight_decay=0.1, **settings)
    lct.train(network, data, config, run_dir=tmp_path / "run")
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert not [key for key in changed if key.startswith("backbone")]
    assert {"neck.0.weight", "neck.1.running_mean", "head.2.weight"} <= changed
    if "mode" in name or "train of" in name:  # dropout is off where the backbone is in evaluation mode
        active = [key for key, module in network.train().named_modules() if module.training and "backbone." in key]
        assert not [key for key in active if isinstance(network.get_submodule(key), nn.Dropout | nn.BatchNorm2d)]


def test_groups_by_hand_keep_frozen_statistics_too(data: lct.Data, tmp_path: Path) -> None:
    first = nn.Sequential(conv(1, 4), conv(4, 4).requires_grad_(False))
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    network = lct.LocalCriticNetwork([first, last], [lct.make_critic("pooled", (4, 8, 8), 3)])
    lct.train(network, data, lct.TrainConfig(epochs=1, batch_size=32, device="cpu"), run_dir=tmp_path / "run")
    assert first[0][1].num_batches_tracked == 3
    assert first[1][1].num_batches_tracked == 0
    assert torch.equal(first[1][1].running_mean, torch.zeros(4))


def test_only_what_is_frozen_is_held() -> None:
    model = Transfer()
    model.backbone[0][1].requires_grad_(False)  # one batch norm
    network = lct.attach_critics(model, torch.zeros(1, 1, 8, 8), num_outputs=3, groups=2).train()
    modes = {name: module.training for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert modes == {"backbone.0.1": False, "backbone.1.1": True, "neck.1": True}
    model.requires_grad_(True)
    network.train()
    assert model.backbone[0][1].training


def test_dropout_that_the_network_leaves_on_stays_on_in_evaluation() -> None:
    class Always(nn.Dropout):
        def train(self, mode: bool = True) -> Self:
            return super().train(True)

    model = Transfer()
    model.neck = nn.Sequential(model.neck, Always(0.5))
    network = lct.attach_critics(model, torch.zeros(1, 1, 8, 8), num_outputs=3, groups=2).eval()
    x = torch.randn(4, 1, 8, 8)
    assert not torch.equal(network(x), network(x))


def test_an_only_group_that_cannot_keep_a_mode_is_refused() -> None:
    class Depends(Transfer):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(PartitionError, match="cannot be traced"):
        lct.attach_critics(left_in_evaluation(Depends()), torch.zeros(1, 1, 8, 8), num_outputs=3, groups=1)
    assert lct.attach_critics(Depends(), torch.zeros(1, 1, 8, 8), num_outputs=3, groups=1).groups[0].training


def own_network(*, num_outputs: int, in_channels: int) -> Transfer:
    assert num_outputs == 3
    return Overridden(nn.Sequential(conv(in_channels, 4), conv(4, 4)))


def test_a_frozen_backbone_stays_in_added_and_fine_tuned_networks(image_folder: Path, tmp_path: Path) -> None:
    data = lct.load_data(lct.DataConfig(name=str(image_folder), image_size=8))
    model = f"{__name__}:own_network"
    recipe = lct.NetworkConfig(model=model, num_outputs=3, in_channels=3, image_size=8, groups=2)
    config = lct.TrainConfig(epochs=1, batch_size=16, device="cpu")
    lct.train(lct.build_network(recipe), data, config, run_dir=tmp_path / "run")
    run = lct.Run(tmp_path / "run", model=model)
    before = lct.load_network(run).main_state_dict()
    lct.densify(run, epochs=1)
    tuned = lct.finetune(run, 1, epochs=1)
    assert all(torch.equal(each, before[key]) for key, each in lct.load_network(run).main_state_dict().items())
    after = lct.load_network(lct.Run(tuned.path, model=model)).main_state_dict()
    after = {key.partition(".")[2]: each for key, each in after.items()}  # its groups stand in one
    assert after.keys() == before.keys()
    changed = {key for key, each in after.items() if not torch.equal(each, before[key])}
    assert not [key for key in changed if key.startswith("backbone")]
    assert {"neck.0.weight", "head.2.weight"} <= changed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # where compiled code breaks off
@pytest.mark.parametrize("context", ["no_grad", "autocast"])
def test_compiled_groups_keep_contexts(context: str) -> None:
    class Own(Transfer):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad() if context == "no_grad" else torch.autocast("cpu", torch.bfloat16):
                x = self.backbone(x)
            return self.head(self.neck(x.float()))

    torch.manual_seed(0)
    model = Own()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # compiled code draws other masks
    network = lct.attach_critics(model, torch.zeros(1, 1, 8, 8), num_outputs=3, split_at=["neck.0"])
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    for training in (True, False):
        network.train(training)
        gradients = []
        for groups in (network.groups, [compiled(group) for group in network.groups]):
            network.zero_grad()
            outputs = x
            for group in groups:
                outputs = group(outputs)
            nn.functional.cross_entropy(outputs, y).backward()
            gradients.append({name: each.grad for name, each in network.groups.named_parameters()})
        assert {name for name, each in gradients[0].items() if each is None} == {
            name for name, each in gradients[1].items() if each is None
        }
        for name, each in gradients[0].items():
            if each is not None:
                torch.testing.assert_close(gradients[1][name], each, rtol=2e-2, atol=2e-3)
