"""What may be taken out of a network, what is, and how it is recorded."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lctprune as lct
from lctprune.pruning.dependencies import prunable
from lctprune.pruning.engine import prune, recorded
from lctprune.pruning.importance import RANKING_SAMPLES, importance_of, set_gradients
from lctprune.pruning.record import apply_record


class Padded(nn.Module):
    """A shortcut that is padded with channels of zeros, as in the ResNets for CIFAR-10."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.wide, self.back = nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        y = self.back(self.wide(x).relu())
        return self.head((y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))).relu().mean((2, 3)))


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 10, 1)
        self.norm, self.last, self.head = nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1), nn.Linear(8 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.cat([self.left(x), self.right(x)], 1)).relu()
        return self.head(F.adaptive_avg_pool2d(self.last(x), 2).flatten(1))


def separable() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.Conv2d(12, 16, 1),
        nn.PReLU(16),
        nn.Conv2d(16, 8, 3, padding=1, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


NETWORKS: list[Callable[[], nn.Module]] = [Padded, Concatenated, separable]
EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def narrowed(network: nn.Module, keep: float) -> tuple[nn.Module, dict[str, object]]:
    """Take channels out until a fraction of the FLOPs is left; return the network and the record, as read back."""
    limit, own = keep * lct.count_flops(network, EXAMPLE), copy.deepcopy(network)
    found = prunable(network, EXAMPLE[:1], "it")
    history = prune(
        network,
        EXAMPLE[:1],
        lambda each: lct.count_flops(each, EXAMPLE) <= limit,
        importance_of("magnitude"),
        kept_whole=found.kept_whole,
    )
    assert history is not None
    record = json.loads(json.dumps(recorded(network, EXAMPLE[:1], history)))
    apply_record(own, record)
    return own, record


@pytest.mark.parametrize("make", NETWORKS)
def test_channels_that_do_nothing_go_first_and_nothing_changes(make: Callable[[], nn.Module]) -> None:
    network = make().eval()
    with torch.no_grad():  # every fourth output of the layers inside is zero
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d) and name not in ("first", "back"):
                layer.weight[::4], layer.bias[::4] = 0, 0
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    own, record = narrowed(network, 0.92)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())  # not changed
    with torch.no_grad():
        torch.testing.assert_close(own.eval()(EXAMPLE), network(EXAMPLE))
    assert record


@pytest.mark.parametrize("make", NETWORKS)
def test_the_record_says_what_each_tensor_kept(make: Callable[[], nn.Module]) -> None:
    network = make()
    own, record = narrowed(network, 0.6)
    assert 0.5 < lct.count_flops(own, EXAMPLE) / lct.count_flops(network, EXAMPLE) <= 0.6
    expected = dict(network.state_dict())
    for name, entry in record.items():  # by hand: index after index
        for selection in entry["kept"]:  # type: ignore[index]
            edges = [part.split("-") for part in selection["channels"].split()]
            kept = [number for edge in edges for number in range(int(edge[0]), int(edge[-1]) + 1)]
            for key in selection["tensors"]:
                whole = expected[f"{name}.{key}"]
                rows = [whole.select(selection["dim"], number) for number in kept]
                expected[f"{name}.{key}"] = torch.stack(rows, selection["dim"])
    assert own.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in own.state_dict().items())


def test_layers_on_a_padded_shortcut_keep_their_channels() -> None:
    own, record = narrowed(Padded(), 0.6)
    assert own.first.out_channels == 8
    assert own.back.out_channels == 16
    assert own.wide.out_channels < 12
    assert set(record) == {"wide", "back"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"elsewhere": {"kept": [], "sizes": {}}}, "elsewhere"),
        ({"0": {"kept": [{"tensors": ["weight"], "dim": 0, "of": 9, "channels": "0"}], "sizes": {}}}, "0.weight"),
        ({"0": {"kept": [{"tensors": ["weight"], "dim": 0, "of": 12, "channels": "3-12"}], "sizes": {}}}, "0.weight"),
        ({"0": {"kept": [], "sizes": {"forward": 3}}}, "forward"),
        ({"0": {"kept": [], "sizes": {"out_channels": "3"}}}, "'3'"),
    ],
)
def test_a_record_of_something_else_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(lct.NetworkError, match=message):
        apply_record(separable(), change)  # type: ignore[arg-type]


def test_what_cannot_be_narrowed_is_named() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn, self.head = nn.Linear(3, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(self.embed(x))[0][:, -1])

    with pytest.raises(lct.NetworkError, match=r"my net cannot be narrowed by Torch-Pruning \(rnn: a recurrent layer"):
        prunable(Recurrent(), torch.zeros(1, 5, 3), "my net")


def test_a_size_in_the_code_keeps_its_layer_whole_and_no_other() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.outer(self.inner(x).relu())
            return self.head(x.reshape(-1, 2, 4, 8, 8).mean((3, 4)).reshape(-1, 8))

    assert prunable(Constant(), EXAMPLE[:1], "it").groups == 1
    own, _ = narrowed(Constant(), 0.6)
    assert (own.inner.out_channels < 8, own.outer.out_channels) == (True, 8)


def test_gradients_are_those_of_enough_samples() -> None:
    """However large the batches are: from 512 samples, two seeds ranked channels so that they ended points apart."""
    network = nn.Linear(2, 1)
    for size in (100, RANKING_SAMPLES):
        seen = []

        def outputs(inputs: Tensor, seen: list[int] = seen) -> list[Tensor]:
            seen.append(len(inputs))
            return [network(inputs)]

        batches = ((torch.randn(size, 2), torch.randn(size, 1)) for _ in range(100))
        set_gradients(network, outputs, batches, lambda output, target: (output - target)[:, 0], device="cpu")
        assert 0 <= sum(seen) - RANKING_SAMPLES < size
