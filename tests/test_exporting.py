"""Export: a file that does what the network does, without lctprune; or no file."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from modules import Function
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import lctprune as lct
from lctprune import export
from lctprune.errors import ConfigError, ExportError
from lctprune.exporting.torchscript import to_torchscript


def tiny_network() -> lct.LocalCriticNetwork:
    """Three groups with batch norm, whose running statistics are not those of a batch, and dropout."""
    torch.manual_seed(0)
    groups = [
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
    ]
    network = lct.LocalCriticNetwork(groups, [lct.make_critic("tail", (4, 8, 8), 5) for _ in range(2)])
    network.exits(2 * torch.randn(16, 3, 8, 8) + 1)
    return network


def samples(batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def load(path: Path) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated", category=FutureWarning)
        loaded: torch.jit.ScriptModule = torch.jit.load(path)
    return loaded


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


# --- what is written -------------------------------------------------------------------------------------------------

# importing lctprune is impossible here: no site hooks (editable installs), no current folder, and a finder that refuses
WITHOUT_LCTPRUNE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "lctprune":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
sys.path.append(sys.argv[1])
try:
    import lctprune
except ModuleNotFoundError:
    pass
else:
    sys.exit("lctprune is there")

import torch

inputs = torch.load("inputs.pt")
outputs = []
for exit in range(3):
    model = torch.jit.load(f"{exit}.pt")
    outputs.append([model(inputs[:batch]) for batch in (1, 2, 7)])
torch.save(outputs, "outputs.pt")
"""


def test_the_file_runs_without_lctprune(tmp_path: Path) -> None:
    network = tiny_network()
    for exit in range(3):
        assert export(network.subnetwork(exit), samples(), tmp_path / f"{exit}.pt") == tmp_path / f"{exit}.pt"
    inputs = samples(7)
    torch.save(inputs, tmp_path / "inputs.pt")
    packages = Path(torch.__file__).parents[1]
    command = [sys.executable, "-I", "-S", "-c", WITHOUT_LCTPRUNE, str(packages)]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    network.eval()
    with torch.no_grad():
        for exit, outputs in enumerate(torch.load(tmp_path / "outputs.pt")):
            for batch, output in zip((1, 2, 7), outputs, strict=True):
                expected = network.subnetwork(exit)(inputs[:batch])
                torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
                assert torch.equal(output.argmax(1), expected.argmax(1))


def test_the_file_is_frozen_and_in_inference_mode(tmp_path: Path) -> None:
    network = tiny_network()
    model = load(export(network.subnetwork(2), samples(), tmp_path / "model.pt"))
    assert list(model.parameters()) == []  # constants of the graph now
    assert list(model.buffers()) == []
    assert "batch_norm" not in str(model.inlined_graph)  # folded into the convolutions
    assert "dropout" not in str(model.inlined_graph)
    output = model(samples())
    assert not output.requires_grad
    assert torch.equal(model(samples()), output)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_an_example_of_any_batch_size_will_do(batch: int, tmp_path: Path) -> None:
    subnetwork = tiny_network().subnetwork(0).eval()
    model = load(export(subnetwork, samples(batch), tmp_path / "model.pt"))
    torch.testing.assert_close(model(samples(6)), subnetwork(samples(6)).detach(), rtol=1e-4, atol=1e-5)


def test_an_example_in_channels_last_layout_will_do(tmp_path: Path) -> None:
    subnetwork = tiny_network().subnetwork(1).eval()
    example = samples().contiguous(memory_format=torch.channels_last)
    model = load(export(subnetwork, example, tmp_path / "model.pt"))
    torch.testing.assert_close(model(samples()), subnetwork(samples()).detach(), rtol=1e-4, atol=1e-5)


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    network = tiny_network()
    network.groups[0].eval()  # modules in different modes
    network.groups[1].requires_grad_(False)
    modes = [module.training for module in network.modules()]
    trainable = [parameter.requires_grad for parameter in network.parameters()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    model = load(export(network.subnetwork(1), samples(), tmp_path / "model.pt"))
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == trainable
    assert all(parameter.grad is None for parameter in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    output = model(samples())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(model(samples()), output)  # the file's weights are its own


def test_an_existing_file_is_replaced_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "model.pt"
    export(tiny_network().subnetwork(0), samples(), path)
    first = path.read_bytes()
    export(nn.Flatten(), samples(), str(path))
    assert path.read_bytes() != first
    assert load(path)(samples()).shape == (3, 192)
    assert files(tmp_path) == ["folder", "model.pt", "new"]  # and nothing temporary


def test_no_warning_escapes(tmp_path: Path) -> None:
    asks_for_shape = Function(lambda x: x.flatten(1) if x.shape[1] == 3 else x)  # which the tracer warns of
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export(tiny_network().subnetwork(1), samples(), tmp_path / "a.pt")
        export(asks_for_shape, samples(), tmp_path / "b.pt")
    assert [str(warning.message) for warning in caught] == []
    assert files(tmp_path) == ["a.pt", "b.pt"]


# --- what is refused -------------------------------------------------------------------------------------------------


def reshaped_by_a_constant(x: Tensor) -> Tensor:
    return x.reshape(int(x.shape[0]), -1)


def widened_by_a_constant(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1, keepdim=True) + torch.zeros(int(x.shape[0]), 1)


def counted(x: Tensor) -> Tensor:
    return x.flatten(1) * len(x)


def branched(x: Tensor) -> Tensor:
    return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


ALL_SIGNS = torch.stack([torch.full((3, 8, 8), value) for value in (1.0, 1.0, 1.0, -1.0)])


@pytest.mark.parametrize(
    ("function", "example"),
    [
        (reshaped_by_a_constant, samples()),
        (reshaped_by_a_constant, samples(1)),
        (widened_by_a_constant, samples()),
        (counted, samples()),
        (counted, samples(1)),
        (branched, ALL_SIGNS.flip(0)),  # the first sample takes the other branch
        (branched, ALL_SIGNS),  # the last one does
    ],
)
def test_a_wrong_trace_is_refused(function: Callable[[Tensor], Tensor], example: Tensor, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="inputs of shape") as caught:
        export(Function(function), example, tmp_path / "folder" / "model.pt")
    assert "nothing was written" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == []


def padded_to_a_constant(x: Tensor) -> Tensor:  # [batch, steps, features] -> [batch, features]
    return x[:, : int(x.shape[1])].sum(1) + int(x.shape[1])


def test_a_length_frozen_into_the_file_is_found(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"inputs of shape \[3, 4, 5\]"):
        export(Function(padded_to_a_constant), torch.randn(3, 8, 5), tmp_path / "model.pt")
    assert files(tmp_path) == []
    flat = nn.Sequential(nn.Flatten(), nn.Linear(40, 2))  # takes no other length
    assert load(export(flat, torch.randn(3, 8, 5), tmp_path / "model.pt"))(torch.randn(1, 8, 5)).shape == (1, 2)


def test_a_network_that_does_not_fit_its_example_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be converted to TorchScript") as caught:
        export(nn.Linear(3, 2), torch.zeros(2, 4), tmp_path / "model.pt")
    assert str(caught.value).startswith("Linear")
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == []


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'onix' is unknown.*torchscript"):
        export(nn.Flatten(), samples(), tmp_path / "model.pt", format="onix")
    assert files(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken.pt").mkdir()
    for path in (tmp_path / "file" / "model.pt", tmp_path / "file" / "below" / "model.pt", tmp_path / "taken.pt"):
        with pytest.raises(ExportError, match="cannot be written") as caught:
            export(nn.Flatten(), samples(), path)
        assert str(path) in str(caught.value)
        assert "choose another place" in str(caught.value)
    assert files(tmp_path) == ["file", "taken.pt"]
    assert (tmp_path / "file").read_text() == "mine"


def test_an_existing_file_survives_a_failed_export(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    export(nn.Flatten(), samples(), path)
    before = path.read_bytes()
    with pytest.raises(ExportError):
        export(Function(counted), samples(), path)
    assert path.read_bytes() == before
    assert files(tmp_path) == ["model.pt"]


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def test_what_torchscript_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Function cannot be converted to TorchScript"):
        lct.export(Function(Rounded.apply), samples(), tmp_path / "model.pt")
    assert files(tmp_path) == []


# --- networks that cannot simply be copied or folded -----------------------------------------------------------------


class Uncopied(nn.Module):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.lock = nn.Linear(3, 2), threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def test_a_network_that_cannot_be_copied_is_exported_with_weights_of_its_own(tmp_path: Path) -> None:
    x, network = torch.randn(2, 3), Uncopied()
    model = to_torchscript(network, x)
    expected = network(x).detach()
    network.linear.weight.data.zero_()
    assert torch.equal(model(x), expected)
    assert network.training
    network.last = network(x)  # with its graph
    assert torch.equal(load(export(network, x, tmp_path / "model.pt"))(x), network(x))
    assert network.last.grad_fn is not None


def pruned(layer: nn.Module) -> nn.Module:
    prune.random_unstructured(layer, "bias", 0.5)
    return prune.l1_unstructured(layer, "weight", 0.5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("reparametrised", "train"),
    [
        (nn.utils.weight_norm, False),
        (nn.utils.weight_norm, True),
        (nn.utils.spectral_norm, False),
        (parametrizations.weight_norm, False),
        (parametrizations.spectral_norm, False),
        (pruned, False),
        (pruned, True),
    ],
)
def test_reparametrised_layers_are_exported_after_training(
    reparametrised: Callable[[nn.Module], nn.Module], train: bool, tmp_path: Path
) -> None:
    layers = [reparametrised(nn.Conv2d(3, 4, 3, 2)), nn.ReLU(), reparametrised(nn.Conv2d(4, 4, 3)), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), reparametrised(nn.Linear(4, 3)))
    x, y = samples(6), torch.arange(6) % 3
    model(x).sum().backward()  # it was used before
    network = lct.attach_critics(model, x, num_outputs=3, groups=2).train()
    if train:
        split = lct.TensorSplit(x, y)
        data = lct.Data(train=split, val=split, test=split, classes=("a", "b", "c"))
        lct.train(network, data, lct.TrainConfig(epochs=1, batch_size=3), run_dir=tmp_path / "run")
        assert len(lct.evaluate(network, split, x, latency_repeats=1)) == 2
    else:
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        lct.local_critic_backward(network, x, y)
        optimizer.step()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for exit in range(2):
        exported = load(export(network.subnetwork(exit), x, tmp_path / "m.pt"))
        torch.testing.assert_close(exported(x), network.subnetwork(exit).eval()(x).detach(), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    network.train()
    lct.local_critic_backward(network, x, y)  # and it can be trained further


def settled(*layers: nn.Module) -> nn.Sequential:
    """Layers in evaluation mode, with statistics of batch norm that differ per channel."""
    for layer in layers:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize(("tokens", "features"), [(5, 20), (8, 16), (16, 16), (1, 6), (6, 6)])
def test_batch_norm_over_tokens_is_not_folded_into_the_linear_layer(tokens: int, features: int, tmp_path: Path) -> None:
    network = settled(nn.Linear(10, features), nn.BatchNorm1d(tokens), nn.ReLU())
    x = torch.randn(4, tokens, 10)
    exported = load(export(network, x, tmp_path / "m.pt"))
    torch.testing.assert_close(exported(x), network(x).detach(), rtol=1e-5, atol=1e-6)
    deployed = to_torchscript(network, x[:1])  # as it is timed
    torch.testing.assert_close(deployed(x), network(x).detach(), rtol=1e-5, atol=1e-6)


def test_batch_norm_over_rows_is_not_folded_either(tmp_path: Path) -> None:
    network = settled(nn.Linear(4, 5), nn.BatchNorm2d(5), nn.ReLU())
    x = torch.randn(3, 5, 5, 4)
    exported = load(export(network, x, tmp_path / "m.pt"))
    torch.testing.assert_close(exported(x), network(x).detach(), rtol=1e-5, atol=1e-6)


def test_a_wrapped_network_is_exported(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    path = export(nn.DataParallel(network), samples(), tmp_path / "m.pt")
    assert torch.equal(load(path)(samples()), network(samples()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_exported(dtype: torch.dtype, tmp_path: Path) -> None:
    network, x = tiny_network().to(dtype), samples().to(dtype)
    for exit in range(3):
        assert load(export(network.subnetwork(exit), x, tmp_path / "m.pt"))(x).dtype == dtype
