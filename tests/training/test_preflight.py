"""What cannot be trained is found before a run is begun."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lctprune as lct

CONFIG = lct.TrainConfig(epochs=1, batch_size=16, precision="fp32")
Network = lct.LocalCriticNetwork


class Remembering(nn.Linear):
    """Keeps more than tensors in its state dict."""

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


class TwoTensors(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


def layers(*last: nn.Module) -> list[nn.Module]:
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), nn.Sequential(*last)]


def with_a_layer_in_both_groups() -> Network:
    layer = nn.Linear(64, 64)
    return Network(
        [nn.Sequential(nn.Flatten(), layer), nn.Sequential(nn.ReLU(), layer, nn.Linear(64, 3))], [nn.Linear(64, 3)]
    )


def with_one_critic_twice() -> Network:
    critic = nn.Linear(4, 3)
    return Network([*layers(nn.Linear(4, 4)), nn.Linear(4, 3)], [critic, critic])


REFUSED: dict[str, tuple[Callable[[], Network], type[Exception], str]] = {
    "shared layer": (with_a_layer_in_both_groups, lct.NetworkError, r"two groups or critics hold 1\.weight"),
    "shared critic": (with_one_critic_twice, lct.NetworkError, "two groups or critics hold weight"),
    "critic in place": (
        lambda: Network(layers(nn.Linear(4, 3)), [nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3))]),
        lct.NetworkError,
        "critic 0 changes its input in place",
    ),
    "no tensor": (
        lambda: Network(layers(Remembering(4, 3)), [nn.Linear(4, 3)]),
        lct.NetworkError,
        r"group 1 keeps a dict in its state dict, as 0\._extra_state",
    ),
    "two outputs": (
        lambda: Network(layers(nn.Linear(4, 3)), [TwoTensors(4, 3)]),
        lct.NetworkError,
        "critic 0 gives a tuple",
    ),
    "other input": (
        lambda: Network(layers(nn.Linear(5, 3)), [nn.Linear(4, 3)]),
        lct.NetworkError,
        r"group 1 does not run on an input of \[2, 4\]: mat1 and mat2",
    ),
    "no class": (
        lambda: Network(layers(nn.Linear(4, 1), nn.Flatten(0)), [nn.Linear(4, 3)]),
        lct.ConfigError,
        r"outputs of \[2\] cannot be scored against targets of \[2\]",
    ),
    "maps for one class": (
        lambda: Network(layers(nn.Linear(4, 6), nn.Unflatten(1, (3, 2))), [nn.Linear(4, 3)]),
        lct.ConfigError,
        r"outputs of \[2, 3, 2\] cannot be scored against targets of \[2\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_and_nothing_begun(name: str, data: lct.Data, tmp_path: Path) -> None:
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        lct.train(make(), data, CONFIG, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("target", [3, -1])
@pytest.mark.parametrize("place", ["train", "val"])
def test_a_class_that_no_output_is_of_is_refused(place: str, target: int, tmp_path: Path) -> None:
    known, other = (lct.TensorSplit(torch.randn(32, 5), torch.arange(32) % 3) for _ in range(2))
    other.targets[20] = target
    data = lct.Data(**({"train": known, "val": known, "test": known} | {place: other}), classes=("a", "b", "c"))
    network = Network([nn.Linear(5, 3)])
    with pytest.raises(lct.DataError, match=f"split has a target of {target}; the outputs have classes 0 to 2"):
        lct.train(network, data, CONFIG, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(lct.DataError, match=f"Target {target} is out of"):
        lct.evaluate(network, other, torch.randn(1, 5))
    other.targets[20] = -100  # of no class
    lct.train(network, data, CONFIG, run_dir=tmp_path / "run")


def test_an_unfit_regression_is_refused(tmp_path: Path) -> None:
    split = lct.TensorSplit(torch.randn(32, 5), torch.randn(32))
    data = lct.Data(train=split, val=split, test=split, classes=())
    with pytest.raises(lct.ConfigError, match=r"outputs of \[2, 2\] cannot be scored against targets of \[2\]"):
        lct.train(Network([nn.Linear(5, 2)]), data, CONFIG, run_dir=tmp_path / "run")
    split = lct.TensorSplit(torch.randn(32, 5), torch.eye(2).long().repeat(16, 1))
    data = lct.Data(train=split, val=split, test=split, classes=())
    with pytest.raises(lct.ConfigError, match=r"targets\.argmax\(1\)"):
        lct.train(Network([nn.Linear(5, 2)]), data, CONFIG, run_dir=tmp_path / "run")


def test_a_trial_changes_nothing(make_network: Callable[..., Network], data: lct.Data, tmp_path: Path) -> None:
    network = make_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    lct.open_run(network, data, CONFIG, run_dir=tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_what_is_not_trained_may_be_shared(data: lct.Data, tmp_path: Path) -> None:
    frozen = dataclasses.replace(CONFIG, freeze_main=True)
    assert lct.train(with_a_layer_in_both_groups(), data, frozen, run_dir=tmp_path / "critics").epochs_done == 1
    network = with_a_layer_in_both_groups()
    network.groups[0][1].requires_grad_(False)
    assert lct.train(network, data, CONFIG, run_dir=tmp_path / "layer").epochs_done == 1


def test_a_refused_layer_leaves_the_data_as_it_was(tmp_path: Path) -> None:
    inputs = torch.randn(8, 5)
    before = inputs.clone()
    split = lct.TensorSplit(inputs, torch.arange(8) % 2)
    data = lct.Data(train=split, val=split, test=split, classes=("a", "b"))
    network = Network([nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 2))])
    with pytest.raises(lct.NetworkError, match="group 0 changes its input in place"):
        lct.train(network, data, CONFIG, run_dir=tmp_path / "run")
    assert torch.equal(inputs, before)


class Hungry(nn.Module):
    """Needs more memory than there is for batches of more than two samples, as the check before training takes."""

    def __init__(self, error: Callable[[], object]) -> None:
        super().__init__()
        self._error = error

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            self._error()
        return x


def cuda_is_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (cuda_is_full, "Tried to allocate 2.00 GiB"),
        (lambda: torch.empty(2**50), "can't allocate memory"),
        (lambda: bytearray(2**60), "MemoryError"),
    ],
    ids=["device", "host", "Python"],
)
def test_full_memory_is_told_with_a_remedy(
    error: Callable[[], object], cause: str, data: lct.Data, tmp_path: Path
) -> None:
    network = lct.LocalCriticNetwork([nn.Sequential(Hungry(error), nn.Flatten(), nn.Linear(64, 3))])
    with pytest.raises(lct.TrainingError, match="epoch 1, step 1 failed, the memory is full") as caught:
        lct.train(network, data, lct.TrainConfig(epochs=1, device="cpu"), run_dir=tmp_path / "run")
    text = str(caught.value)
    assert "\n" not in text
    assert all(each in text for each in (cause, "`batch_size`", "`recompute=auto`", "`processes`")), text
