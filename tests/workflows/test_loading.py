"""Loading a run: each network is built once per command, at the cut points that were recorded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lctprune as lct
from lctprune.workflows.deployment import deploy
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import members_of, new_origin
from lctprune.workflows.selections import read_selection

Cli = Callable[..., Any]
SOURCE = """
from pathlib import Path

from torch import nn


def build(num_classes, features):
    with Path("built").open("a") as file:
        file.write("x")
    return nn.Sequential(nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, num_classes))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder with a module whose network writes an x whenever it is built."""
    (tmp_path / "counted_net.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def run(folder: Path, table_run: Callable[..., lct.Run]) -> lct.Run:
    """Train a network that counts how often it is built."""
    run = table_run(model="counted_net:build", model_args={})
    (folder / "built").unlink()
    return lct.Run(run.path, model="counted_net:build")


def test_a_selection_builds_the_network_once(run: lct.Run, folder: Path, cli: Cli) -> None:
    result = cli("select", run.path, "--budget-flops", "100%", "--model", "counted_net:build", "--threads", 1)
    assert result.code == 0, result.err
    assert (folder / "built").read_text() == "x"


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_measured_and_deployed_together_as_each_alone(run: lct.Run, folder: Path) -> None:
    loaded = LoadedRun(run)
    candidates = lct.measure_run(run, again=True, loaded=loaded)
    together = deploy(run, candidates, 0, folder / "together", measure_test=True, loaded=loaded)
    assert (folder / "built").read_text() == "x"
    alone = deploy(run, candidates, 0, folder / "alone", measure_test=True)
    files = {name: getattr(alone, name) for name in ("model", "models", "model_card")}
    measured = [dataclasses.replace(together, **files), alone]
    assert measured[0] == measured[1]
    x = loaded.data.example
    outputs = [torch.jit.load(each.model)(x) for each in (together, alone)]
    assert torch.equal(*outputs)
    assert loaded.data is loaded.data


def test_added_networks_are_loaded_beside_the_runs_own(trained: lct.Run) -> None:
    fine, loaded = lct.finetune(trained, 0), LoadedRun(trained)
    lct.measure_run(trained, again=True, loaded=loaded)
    assert len(loaded.network(fine).groups) == 1
    assert len(loaded.network().groups) == 3
    assert loaded.network() is loaded.network(trained)


def test_a_loaded_network_is_cut_where_the_run_was(trained: lct.Run) -> None:
    assert trained.config.network is not None
    assert lct.load_network(trained).cuts == trained.config.network.cuts


# --- what was compared once is not compared again ----------------------------------------------------------------


class Counting(nn.Module):
    """A network that counts its runs; its block, whose path depends on values, is kept whole."""

    runs = 0

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.sum() > 0 else x

    def __init__(self, num_outputs: int, in_channels: int) -> None:
        super().__init__()
        self.flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, 4), nn.ReLU())
        self.block, self.head = self.Block(), nn.Linear(4, num_outputs)
        self.flat[0].register_forward_hook(lambda *_: self._count())

    def _count(self) -> None:
        Counting.runs += 1

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.flat(x)))


@pytest.mark.parametrize("groups", [1, 2])
def test_loading_runs_the_network_at_most_once(groups: int, image_folder: Path, tmp_path: Path) -> None:
    data = lct.load_data(lct.DataConfig(name=str(image_folder), image_size=8))
    model = f"{__name__}:Counting"
    network = lct.build_network(lct.NetworkConfig(model=model, num_outputs=3, image_size=8, groups=groups))
    lct.train(network, data, lct.TrainConfig(epochs=1, batch_size=30, device="cpu"), run_dir=tmp_path / "run")
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())
    assert recorded["network"]["tracing"] == (["fx", "flat.0", "block"] if groups == 2 else ["none"])
    Counting.runs = 0
    loaded = lct.load_network(tmp_path / "run", model=model)
    assert Counting.runs <= 1
    assert loaded.recipe == network.recipe
    del recorded["network"]["tracing"]  # as in earlier runs
    (tmp_path / "run" / "config.json").write_text(json.dumps(recorded))
    before = lct.load_network(tmp_path / "run", model=model)
    assert before.tracing == loaded.tracing == network.tracing
    for each in (loaded, before):
        assert all(map(torch.equal, each.exits(data.example), network.eval().exits(data.example)))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_checkpoint_that_is_replaced_meanwhile_changes_nothing(trained: lct.Run, tmp_path: Path) -> None:
    """As by a training that goes on: table, weights, test scores and hashes are all of the first checkpoint."""
    before, network = trained.load_checkpoint(), lct.load_network(trained)
    loaded = LoadedRun(trained)
    candidates = lct.measure_run(trained, again=True, loaded=loaded)
    tensors = {name: 0.5 * tensor for name, tensor in trained.read_checkpoint("").items()}
    trained.write_checkpoint(1, tensors)
    assert trained.load_checkpoint().sha256 != before.sha256
    deployed = deploy(trained, candidates, 0, tmp_path / "out", measure_test=True, loaded=loaded)
    assert deployed.model is not None
    assert deployed.model_card is not None
    card = json.loads(deployed.model_card.read_text())
    table = json.loads((trained.path / "candidates.json").read_text())
    assert card["trained_with"]["checkpoint_sha256"] == table["conditions"]["checkpoint_sha256"] == before.sha256
    assert (card["trained_with"]["epoch"], table["epoch"], table["epochs"]) == (2, 2, 2)
    example = loaded.data.example
    torch.testing.assert_close(torch.jit.load(deployed.model)(example), network.exits(example)[0], rtol=1e-3, atol=1e-3)
    on_test = lct.evaluate(network, loaded.data.test, example, latency_repeats=0)
    assert deployed.test_accuracy == on_test[0].accuracy
    assert [member.name for member in members_of(loaded)] == [each.name for each in candidates]
    assert read_selection(loaded) is None


def test_an_added_run_starts_from_one_checkpoint(trained: lct.Run) -> None:
    loaded = LoadedRun(trained)
    assert loaded.epochs == {"epoch": 2, "epochs": 2}
    (trained.path / "checkpoint.safetensors").unlink()
    assert new_origin(loaded, ["one more"]).checkpoint_sha256 == loaded.checkpoint().sha256
    with pytest.raises(lct.RunError, match=r"checkpoint\.safetensors is missing, and metrics.csv has epochs"):
        members_of(trained)
    with pytest.raises(lct.RunError, match="is missing"):
        trained.prepare_to_resume()
    (trained.path / "metrics.csv").unlink()
    with pytest.raises(lct.RunError, match="no epoch was finished"):
        members_of(trained)
