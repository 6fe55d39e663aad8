"""Models in other types, wrapped, or of other kinds: cut as the plain network, or refused in one line, unchanged."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import lctprune as lct
from lctprune.errors import NetworkError, PartitionError
from lctprune.measure.group_costs import measure_groups
from lctprune.utils.wrappers import unwrapped

X, Y = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


def block(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())


def plain() -> nn.Sequential:
    return nn.Sequential(block(3), block(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def changed(change: Callable[[nn.Module], nn.Module]) -> nn.Sequential:
    """A plain network whose second block is wrapped."""
    model = plain()
    model[1] = change(model[1])
    return model


# --- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("balance_by", ["flops", "memory"])
def test_critics_have_the_models_type(dtype: torch.dtype, balance_by: Any, tmp_path: Path) -> None:
    model, x = plain().to(dtype), X.to(dtype)
    network = lct.attach_critics(model, x, num_outputs=3, groups=2, balance_by=balance_by)
    assert {tensor.dtype for tensor in network.parameters()} == {dtype}
    assert [losses.shape for losses in lct.local_critic_backward(network, x, Y)] == [(6,), (6,)]
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert lct.count_flops(network, x) == lct.count_flops(network.float(), X)
    network.to(dtype)
    for exit in range(2):
        lct.export(network.subnetwork(exit), x, tmp_path / "m.pt")


def test_a_network_in_double_is_trained_measured_and_exported_in_double(tmp_path: Path) -> None:
    split = lct.TensorSplit(X.double(), torch.randn(6, 3, dtype=torch.float64))
    data = lct.Data(train=split, val=split, test=split, classes=())
    network = lct.attach_critics(plain().double(), X.double(), num_outputs=3, groups=2)
    lct.train(network, data, lct.TrainConfig(epochs=1, batch_size=3), run_dir=tmp_path / "run")
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float64}
    candidates = lct.evaluate(network, split, X.double(), latency_repeats=1)
    assert candidates[1].size_bytes > 8 * candidates[1].parameters
    path = lct.export(network.subnetwork(1), X.double(), tmp_path / "m.pt")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(torch.jit.load(path)(X.double()), network(X.double()), rtol=1e-12, atol=1e-12)


def test_each_critic_has_the_type_of_its_groups_output() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = block(3).double(), block(4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.b(self.a(x.double()).float()).mean((2, 3)))

    network = lct.attach_critics(Mixed(), X, num_outputs=3, split_at=["a", "b"])
    assert [next(critic.parameters()).dtype for critic in network.critics] == [torch.float64, torch.float32]
    lct.local_critic_backward(network, X, Y)


def test_an_example_of_another_type_is_named() -> None:
    with pytest.raises(NetworkError, match=r"does not run on an input of \[6, 3, 8, 8\] \(.*float.*double"):
        lct.attach_critics(plain().double(), X, num_outputs=3, groups=2)


# --- wrappers --------------------------------------------------------------------------------------------------------


def compiled_in_place(module: nn.Module) -> nn.Module:
    module.compile()
    return module


def checkpointed(module: nn.Module) -> nn.Module:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    return checkpoint_wrapper(module)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": torch.compile,
    "compiled in place": compiled_in_place,
    "parallel": nn.DataParallel,
    "parallel, compiled": lambda module: torch.compile(nn.DataParallel(module)),
    "compiled, parallel": lambda module: nn.DataParallel(torch.compile(module)),
    "averaged": AveragedModel,
    "checkpointed": checkpointed,
}


@pytest.mark.filterwarnings("ignore")  # of torch.compile
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module], inside: bool, tmp_path: Path) -> None:
    model = changed(wrap) if inside else wrap(plain())
    modules, state = list(model.modules()), {name: each.clone() for name, each in model.state_dict().items()}
    network = lct.attach_critics(model, X, num_outputs=3, groups=2)
    assert list(network.main_state_dict()) == list(plain().state_dict())
    assert list(model.modules()) == modules
    assert all(torch.equal(each, state[name]) for name, each in model.state_dict().items())
    assert {id(each) for each in network.groups.parameters()} == {id(each) for each in model.parameters()}
    own = plain()
    own.load_state_dict(network.main_state_dict())
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(X), own.eval()(X))
    lct.local_critic_backward(network.train(), X, Y)
    lct.export(network.subnetwork(0), X, tmp_path / "m.pt")


def test_a_distributed_model_is_taken_out(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(plain())
        network = lct.attach_critics(model, X, num_outputs=3, groups=2)
        assert list(network.main_state_dict()) == list(plain().state_dict())
    finally:
        torch.distributed.destroy_process_group()


def test_a_plain_network_is_itself_and_twins_share_everything() -> None:
    model = plain()
    assert unwrapped(model) is model
    wrapped = nn.Sequential(nn.DataParallel(model[0]), model[1])
    twin = unwrapped(wrapped)
    assert list(twin) == [model[0], model[1]]
    assert isinstance(wrapped[0], nn.DataParallel)
    shared = nn.DataParallel(nn.Linear(2, 2))
    twice = unwrapped(nn.Sequential(shared, nn.Sequential(shared)))
    assert twice[0] is twice[1][0]


def wrapped_network(num_classes: int, image_size: int) -> nn.Module:
    return nn.DataParallel(plain())


def test_a_wrapped_network_by_name_takes_plain_weights(tmp_path: Path) -> None:
    own = plain()
    torch.save(own.state_dict(), tmp_path / "w.pt")
    recipe = lct.NetworkConfig(model=f"{__name__}:wrapped_network", num_outputs=3, image_size=8, groups=2)
    state = lct.build_network(recipe, weights=str(tmp_path / "w.pt")).main_state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in own.state_dict().items())


# --- what is refused -------------------------------------------------------------------------------------------------


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear})


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "scripted": (lambda: torch.jit.script(plain()), "is a TorchScript module, .*give the nn.Module"),
    "traced": (lambda: torch.jit.trace(plain().eval(), X), "is a TorchScript module"),
    "scripted inside": (lambda: changed(torch.jit.script), "^1 is a TorchScript module"),
    "exported": (lambda: torch.export.export(plain(), (X,)), "an exported program, .*give the nn.Module"),
    "exported module": (lambda: torch.export.export(plain(), (X,)).module(), "no training mode"),
    "quantised": (quantised, "^4 is a quantised Linear"),
    "meta": (lambda: plain().to("meta"), "on the meta device, .*to_empty"),
    "several devices": (lambda: changed(lambda module: module.to("meta")), r"several devices \(cpu, meta\); move"),
    "a state dict": (lambda: plain().state_dict(), "the model is a OrderedDict, not an nn.Module"),
    "a class": (lambda: nn.Linear, "the model is a type, not an nn.Module"),
}


@pytest.mark.filterwarnings("ignore")  # of deprecated parts of PyTorch
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_parts_to_train_is_refused_in_one_line(make: Callable[[], Any], message: str, groups: int) -> None:
    with pytest.raises(NetworkError, match=message) as caught:
        lct.attach_critics(make(), X, num_outputs=3, groups=groups)
    assert "\n" not in str(caught.value)


def test_a_graph_module_is_cut() -> None:
    network = lct.attach_critics(torch.fx.symbolic_trace(plain()), X, num_outputs=3, groups=2)
    assert list(network.main_state_dict()) == list(plain().state_dict())


# --- the example's batch ---------------------------------------------------------------------------------------------


def without_statistics() -> nn.Sequential:
    norms = [nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm1d(4, track_running_stats=False)]
    return nn.Sequential(block(3), norms[0], nn.AdaptiveAvgPool2d(1), nn.Flatten(), norms[1], nn.Linear(4, 3))


@pytest.mark.parametrize("balance_by", ["flops", "time", "memory"])
@pytest.mark.parametrize("count", [1, 4])
def test_a_network_that_needs_two_samples_is_cut(count: int, balance_by: Any) -> None:
    model = without_statistics()
    network = lct.attach_critics(model, X[:count], num_outputs=3, groups=2, balance_by=balance_by)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(X), model.eval()(X))
    assert lct.count_flops(network, X) == 2 * (4 * 3 * 9 * 16 + 4 * 3)
    assert sum(each.flops or 0 for each in measure_groups(network, X)) == 2 * (4 * 3 * 9 * 16 + 4 * 3)


def test_one_group_of_a_network_that_needs_two_samples() -> None:
    assert len(lct.attach_critics(without_statistics(), X, num_outputs=3, groups=1).groups) == 1


def test_a_network_for_one_batch_size_is_named_and_the_users_own_shape_stands_in_errors() -> None:
    class Four(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(4, 3, 8, 8))

    with pytest.raises(PartitionError, match=r"runs on 4 samples, but neither on 1 nor on 2 \(.*any number"):
        lct.attach_critics(Four(*plain()), X[:4], num_outputs=3, groups=2)
    with pytest.raises(NetworkError, match=r"does not run on an input of \[6, 2, 8, 8\]"):
        lct.attach_critics(plain(), X[:, :2], num_outputs=3, groups=2)
