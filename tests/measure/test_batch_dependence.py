"""Outputs that depend on the rest of the batch: found, said, and scored as they are used; others never accused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from modules import Function
from torch import Tensor, nn

import lctprune as lct
from lctprune.errors import NetworkWarning
from lctprune.models.build import MODELS
from lctprune.utils.batches import batch_dependence
from lctprune.workflows.deployment import deploy, measure_run


def finding(network: nn.Module, samples: Tensor) -> str | None:
    with torch.no_grad():
        return batch_dependence(network.eval(), samples)


def normalised(kind: Callable[..., nn.Module], features: int) -> nn.Module:
    return kind(features, track_running_stats=False)


# --- what depends on the batch ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def centred(x: Tensor) -> Tensor:
    return x.flatten(1) - x.flatten(1).mean(0)


DEPENDENT: dict[str, Callable[[], nn.Module]] = {
    "batch norm without statistics": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), normalised(nn.BatchNorm2d, 4), nn.Flatten()
    ),
    "centred": lambda: Function(centred),
    "standardised": lambda: Function(lambda x: centred(x) / x.flatten(1).std(0)),  # NaN for a sample alone
    "softmax over the batch": lambda: Function(lambda x: x.flatten(1).softmax(0)),
    "ranks in the batch": lambda: Function(lambda x: x.flatten(1).argsort(0).argsort(0).float()),
    "attention over the batch": lambda: nn.Sequential(nn.Flatten(), nn.TransformerEncoderLayer(48, 2, 8, 0.0)),
    "the largest of the batch": lambda: Function(lambda x: x.flatten(1) / x.abs().max()),
    "in double": lambda: Function(lambda x: centred(x.double())),
    "in half precision": lambda: Function(lambda x: centred(x).bfloat16()),
    "next to large constants": lambda: Function(lambda x: centred(x) + 30),
}


@pytest.mark.parametrize("make", DEPENDENT.values(), ids=DEPENDENT)
def test_outputs_that_depend_on_the_batch_are_found(make: Callable[[], nn.Module]) -> None:
    assert finding(make(), torch.randn(8, 3, 4, 4)) == "gives a sample alone other outputs than in a batch"


def test_a_network_that_does_not_run_on_one_sample_is_found() -> None:
    network = nn.Sequential(nn.Flatten(), normalised(nn.BatchNorm1d, 48))
    assert "does not run on one sample alone (Expected more than 1 value" in (
        finding(network, torch.randn(8, 3, 4, 4)) or ""
    )


class Tokens(nn.Module):
    """Averages the vectors of tokens, padding included unless it is masked."""

    def __init__(self, *, masked: bool) -> None:
        super().__init__()
        self.table, self.masked = nn.Embedding(9, 4), masked

    def forward(self, x: Tensor) -> Tensor:
        valid = (x != 0)[..., None] if self.masked else torch.ones_like(x)[..., None]
        return (self.table(x) * valid).sum(1) / valid.sum(1)


def padded(lengths: list[int]) -> Tensor:
    rows = torch.randint(1, 9, (len(lengths), max(lengths)))
    return torch.stack([row * (torch.arange(len(row)) < length) for row, length in zip(rows, lengths, strict=True)])


def test_padding_that_is_not_masked_is_found() -> None:
    tokens = padded([3, 6, 2, 5])
    assert finding(Tokens(masked=False), tokens) is not None
    assert finding(Tokens(masked=True), tokens) is None
    assert finding(Tokens(masked=False), padded([4, 4, 4])) is None
    fixed = nn.Sequential(nn.Embedding(9, 2), nn.Flatten(), nn.Linear(12, 2))  # takes one length only
    assert finding(fixed, tokens) is None


# --- what does not ---------------------------------------------------------------------------------------------------

INDEPENDENT: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()),
    "layer, group and instance norm": lambda: nn.Sequential(
        nn.LayerNorm(4), nn.GroupNorm(3, 3), nn.InstanceNorm2d(3), nn.Flatten()
    ),
    "huge outputs": lambda: Function(lambda x: 1e6 * x.flatten(1) + 1e8),
    "equal outputs": lambda: Function(lambda x: 0 * x.flatten(1)),
    "half precision": lambda: nn.Sequential(
        nn.Flatten(), Function(lambda x: x.bfloat16()), nn.Linear(48, 9).bfloat16()
    ),
    "dropout that is always on": lambda: Function(lambda x: nn.functional.dropout(x, 0.5).flatten(1)),
    "NaN": lambda: Function(lambda x: x.flatten(1) * torch.nan),
    "a branch by rounding": lambda: Function(lambda x: (x.flatten(1) > x.flatten(1).mean(1, keepdim=True)).float()),
}


@pytest.mark.parametrize("make", INDEPENDENT.values(), ids=INDEPENDENT)
def test_ordinary_outputs_are_not_accused(make: Callable[[], nn.Module]) -> None:
    assert finding(make(), torch.randn(8, 3, 4, 4)) is None
    assert finding(make(), torch.randn(1, 3, 4, 4)) is None


TINY = {
    "lstm": {"width": 4},
    "gru": {"width": 4},
    "transformer": {"width": 8},
    "mlp": {"width": 8},
    "vgg-lct": {"width": 4},
}


@pytest.mark.parametrize("model", [name for name in MODELS if name not in ("resnet50", "resnet101")])  # slow to make
def test_no_built_in_network_is_accused(model: str) -> None:
    inputs: list[dict[str, Any]] = [{"in_channels": 3, "image_size": 32}]
    if model in ("lstm", "gru", "transformer"):
        inputs = [{"features": 4, "steps": 6}, {"vocabulary": 9, "steps": 6}]
    elif model == "mlp":
        inputs = [{"features": 5}]
    for shape in inputs:
        args = TINY.get(model, {"width": 8})
        recipe = lct.NetworkConfig(model=model, model_args=args, num_outputs=3, groups=2, **shape)
        network = lct.build_network(recipe)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.3, 3)
        samples = torch.randn(4, *recipe.example.shape[1:])
        if "vocabulary" in shape:
            samples = padded([6, 2, 5, 1])
        assert [finding(network.subnetwork(exit), samples) for exit in range(2)] == [None, None]


# --- what is said, and scored ----------------------------------------------------------------------------------------


def without_statistics(num_classes: int, image_size: int) -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3, 2, 1), normalised(nn.BatchNorm2d, 4), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


def shifted_classes(count: int) -> lct.TensorSplit:
    """Pictures whose class is their brightness, which a batch norm over one picture takes away."""
    targets = torch.arange(count) % 3
    return lct.TensorSplit(torch.randn(count, 3, 8, 8) + 2 * (targets - 1.0)[:, None, None, None], targets)


def test_scores_are_those_of_the_exported_file(tmp_path: Path) -> None:
    model, split = without_statistics(3, 8), shifted_classes(40)
    network = lct.attach_critics(model, torch.zeros(1, 3, 8, 8), num_outputs=3, groups=2)
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    inputs, targets = next(shifted_classes(120).batches(120))
    for _ in range(40):
        optimizer.zero_grad()
        lct.local_critic_backward(network, inputs, targets)
        optimizer.step()
    with pytest.warns(NetworkWarning, match=r"\S+ \(and 1 more\) gives a sample alone .* batches of 1, as latencies"):
        main = lct.evaluate(network, split, inputs, latency_repeats=1)[-1]
    assert "alone" in main.batch_dependence
    with pytest.warns(NetworkWarning, match="the exported network gives a sample alone"):
        path = lct.export(network.subnetwork(1), inputs[:8], tmp_path / "m.pt")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = torch.jit.load(path)
        alone = torch.cat([exported(sample[None]) for (sample,) in zip(split.inputs)]).argmax(1)
        together = exported(split.inputs).argmax(1)
    assert main.accuracy == pytest.approx((alone == split.targets).float().mean().item())
    assert main.accuracy < (together == split.targets).float().mean().item() - 0.2  # or there is nothing to say
    with pytest.warns(NetworkWarning, match="batches of 8"):
        assert lct.evaluate(network, split, inputs, latency_batch=8, latency_repeats=0)[-1].accuracy > main.accuracy


def test_a_network_that_needs_two_samples_is_measured_without_latency(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), normalised(nn.BatchNorm1d, 6), nn.Linear(6, 3))
    example = torch.randn(5, 4)
    network = lct.attach_critics(model, example, num_outputs=3, split_at=["1"])
    split = lct.TensorSplit(torch.randn(20, 4), torch.arange(20) % 3)
    with pytest.warns(
        NetworkWarning, match=r"main network does not run on one .* large batches, and latencies are miss"
    ):
        exit, main = lct.evaluate(network, split, example, latency_repeats=1)
    assert exit.latency_ms is not None
    assert main.latency_ms is None
    assert main.flops == 2 * (4 * 6 + 6 * 6 + 6 * 3)
    with pytest.warns(NetworkWarning, match="batches of 4"):
        assert lct.evaluate(network, split, example, latency_batch=4, latency_repeats=1)[1].latency_ms is not None
    with pytest.warns(NetworkWarning, match="the exported network does not run on one sample alone"):
        lct.export(network.subnetwork(1), example, tmp_path / "m.pt")


def test_it_is_said_again_and_stands_in_the_model_card(image_folder: Path, tmp_path: Path) -> None:
    data = lct.load_data(lct.DataConfig(name=str(image_folder), image_size=8))
    model = f"{__name__}:without_statistics"
    network = lct.build_network(lct.NetworkConfig(model=model, num_outputs=3, image_size=8, groups=2))
    lct.train(network, data, lct.TrainConfig(epochs=1, batch_size=16), run_dir=tmp_path / "run")
    run = lct.Run(tmp_path / "run", model=model)
    for _ in range(2):  # measured, and read back
        with pytest.warns(NetworkWarning, match="gives a sample alone other outputs"):
            candidates = measure_run(run)
    with pytest.MonkeyPatch.context() as patch:  # it is known, so it is not compared again
        patch.setattr("lctprune.exporting.single.batch_dependence", None)
        deployment = deploy(run, candidates, 1, tmp_path / "out", measure_test=True)
    card = json.loads(deployment.model_card.read_text())
    assert card["validation"]["batch_dependence"] == "gives a sample alone other outputs than in a batch"
