"""The epoch that a run stands for, with `keep`: the best one on validation, whatever happens in between."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import same
from torch import Tensor, nn

import lctprune as lct
from lctprune.config.stopping import best_epoch, is_best_so_far
from lctprune.models.weights import read_weights
from lctprune.training.progress import Progress

BASE = lct.TrainConfig(
    method="local-critic",
    epochs=4,
    batch_size=16,
    precision="fp32",
    device="cpu",
    lr=0.05,
    critic_lr=0.05,
    keep="best",
)


@pytest.fixture(scope="module")
def data() -> lct.Data:
    """Inputs whose classes on validation are drawn, so that no epoch is sure to be the best."""
    generator = torch.Generator().manual_seed(2)

    def split() -> lct.TensorSplit:
        return lct.TensorSplit(torch.randn(64, 4, generator=generator), torch.randint(3, (64,), generator=generator))

    return lct.Data(train=split(), val=split(), test=split(), classes=("a", "b", "c"))


def make_network(seed: int = 0) -> lct.LocalCriticNetwork:
    torch.manual_seed(seed)
    return lct.LocalCriticNetwork([nn.Linear(4, 5), nn.Linear(5, 3)], [nn.Linear(5, 3)])


def followed(
    network: lct.LocalCriticNetwork, data: lct.Data, path: Path, **changes: Any
) -> tuple[lct.Run, list[dict[str, Tensor]], list[float]]:
    """Train, and return the run, the weights of each checkpoint, and the mean score of the exits after each epoch."""
    states, means = [], []

    def note(progress: Progress) -> None:
        if progress.val_score is not None:
            states.append(lct.Run(path).read_checkpoint("network."))
            means.append(sum(progress.val_score) / len(progress.val_score))

    run = lct.train(network, data, dataclasses.replace(BASE, **changes), run_dir=path, progress=note)
    return run, states, means


@pytest.mark.parametrize("changes", [{}, {"ema": 0.5}, {"keep": "auto", "patience": 4}], ids=str)
def test_the_best_epoch_is_what_a_run_stands_for(changes: dict[str, Any], data: lct.Data, tmp_path: Path) -> None:
    network = make_network()
    run, states, means = followed(network, data, tmp_path / "best", **changes)
    best = max(range(4), key=lambda index: (round(means[index], 9), index))
    assert best < 3 or changes  # or nothing is tested
    assert [bool(int(row["best"])) for row in run.metrics] == [
        means[index] >= max(means[: index + 1]) for index in range(4)
    ]
    assert best_epoch(run.header.history or ()) == best + 1
    kept = run.load_checkpoint()
    assert (kept.epoch, kept.last) == (best + 1, 4)
    assert same(kept.network, states[best])
    assert same(network.state_dict(), states[best])
    assert same(run.read_checkpoint("network."), states[-1])
    assert same(read_weights(run.path)[""], {n.split(".", 2)[2]: t for n, t in states[best].items() if "groups" in n})
    last = followed(make_network(), data, tmp_path / "last", **changes | {"keep": "last"})[0]
    assert same(last.load_checkpoint().network, states[-1])  # nothing but the file is different
    assert not (last.path / "best.safetensors").exists()


def test_a_resumed_run_keeps_its_best_epoch(data: lct.Data, tmp_path: Path) -> None:
    whole, states, means = followed(make_network(), data, tmp_path / "whole", checkpoint_every=1)
    best = max(range(4), key=lambda index: (means[index], index))
    assert best < 3  # or nothing is tested
    config = dataclasses.replace(BASE, checkpoint_every=1)
    run = lct.open_run(make_network(), data, config, run_dir=tmp_path / "part")
    for progress in lct.train_steps(make_network(), data, run):
        if progress.epoch == best + 1 and progress.val_loss is not None:
            break
    (run.path / "best.safetensors").unlink()  # as if killed between both files
    kept = run.load_checkpoint()
    assert kept.epoch == kept.last == best + 1
    assert same(kept.network, states[best])
    lct.train(make_network(seed=4), data, config, run_dir=run.path, resume=True)
    assert same(run.load_checkpoint().network, whole.load_checkpoint().network)
    assert same(run.load_checkpoint().network, states[best])


def test_a_lost_best_epoch_is_an_error_that_says_how_to_use_the_last(data: lct.Data, tmp_path: Path) -> None:
    run, states, _ = followed(make_network(), data, tmp_path)
    for damage in (lambda file: file.write_bytes(b"x"), Path.unlink):
        damage(tmp_path / "best.safetensors")
        with pytest.raises(lct.RunError, match=r'best\.safetensors.*set "keep" to "last" in .*config\.json'):
            run.load_checkpoint()
    config = json.loads((tmp_path / "config.json").read_text())
    config["training"]["keep"] = "last"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert same(lct.Run(tmp_path).load_checkpoint().network, states[-1])


def test_a_run_of_an_earlier_version_stands_for_its_last_epoch_and_is_resumed(data: lct.Data, tmp_path: Path) -> None:
    run, states, _ = followed(make_network(), data, tmp_path, keep="last")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["training"]["keep"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    run.write_checkpoint(
        4,
        run.read_checkpoint(""),
        rows=[{name: value for name, value in row.items() if name != "best"} for row in run.rows_to_continue()],
    )
    assert same(lct.Run(tmp_path).load_checkpoint().network, states[-1])
    lct.train(make_network(), data, dataclasses.replace(BASE, keep="last"), run_dir=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("scores", "metric", "expected"),
    [
        ([(0.5, 0.7), (0.7, 0.6)], "accuracy", True),
        ([(0.5, 0.7), (0.5, 0.7)], "accuracy", True),  # of equal ones the last, which was trained longest
        ([(0.5, 0.7), (0.7, 0.6)], "loss", False),
        ([(0.5, 0.7), (0.9, "nan")], "R2", False),
    ],
)
def test_an_epoch_is_best_by_the_mean_over_exits(scores: Any, metric: str, expected: bool) -> None:
    column = {"accuracy": "val_accuracy", "loss": "val_loss", "R2": "val_r2"}[metric]
    rows = [{"epoch": 1, **{f"exit{exit}_{column}": each for exit, each in enumerate(epoch)}} for epoch in scores]
    assert is_best_so_far(rows, metric) is expected
