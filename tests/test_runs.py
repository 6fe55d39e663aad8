"""The run directory: what is read back is what was trained, and what cannot be trusted is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

import lctprune as lct
from lctprune.errors import first_line
from lctprune.measure.scores import score_exits
from lctprune.runs import create_run
from lctprune.utils.files import write_json
from lctprune.workflows.run_choice import newer_unfinished, newest_run

CONFIG = lct.TrainConfig(epochs=1, batch_size=16, precision="fp32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> tuple[lct.LocalCriticNetwork, lct.Run]:
    torch.manual_seed(0)
    data = lct.load_data(lct.DataConfig(name=str(image_folder)))
    recipe = lct.NetworkConfig(model="vgg-lct", groups=2, critic="pooled", num_outputs=3, image_size=8)
    network = lct.build_network(recipe)
    run = lct.train(network, data, CONFIG, run_dir=tmp_path_factory.mktemp("runs") / "a")
    return network, run


def test_a_loaded_network_is_the_trained_one(trained: tuple[lct.LocalCriticNetwork, lct.Run]) -> None:
    network, run = trained
    loaded = lct.load_network(run.path)
    inputs = run.load_data().example
    assert not loaded.training
    for expected, actual in zip(network.eval().exits(inputs), loaded.exits(inputs.contiguous()), strict=True):
        torch.testing.assert_close(actual, expected)
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_loading_leaves_the_random_generator_alone(trained: tuple[lct.LocalCriticNetwork, lct.Run]) -> None:
    before = torch.get_rng_state()
    lct.load_network(trained[1].path)
    assert torch.equal(before, torch.get_rng_state())


def test_the_data_of_a_run_is_split_and_normalised_as_in_training(
    trained: tuple[lct.LocalCriticNetwork, lct.Run], image_folder: Path
) -> None:
    network, run = trained
    original = lct.load_data(lct.DataConfig(name=str(image_folder)))
    again = run.load_data()
    assert again.normalization == original.normalization
    assert torch.equal(again.val.targets, original.val.targets)
    assert score_exits(network, again.val) == score_exits(network, original.val)


@pytest.mark.parametrize(
    ("key", "other"),
    [("samples", {}), ("classes", ["red", "green", "blue"]), ("fingerprint", ""), ("vocabulary", ["a"])],
)
def test_data_that_has_changed_is_noticed(
    key: str, other: object, trained: tuple[lct.LocalCriticNetwork, lct.Run], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained[1].path, copy)
    config = json.loads((copy / "config.json").read_text())
    config["data"][key] = other
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(lct.RunError, match="has changed since"):
        lct.Run(copy).load_data()


@pytest.mark.parametrize("content", [None, "", "{}", "[]", "not json", '{"network": 1}'])
def test_a_directory_that_is_not_a_run_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(lct.RunError, match="not a run directory"):
        lct.Run(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 20])
def test_a_checkpoint_that_is_missing_or_broken_is_refused(
    content: bytes | None, trained: tuple[lct.LocalCriticNetwork, lct.Run], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained[1].path, copy)
    (copy / "checkpoint.safetensors").unlink()
    if content is not None:
        (copy / "checkpoint.safetensors").write_bytes(content)
    with pytest.raises(lct.RunError, match="no readable checkpoint"):
        lct.load_network(copy)


def test_a_network_made_by_hand_cannot_be_built_again(
    make_network: Callable[..., lct.LocalCriticNetwork], data: lct.Data, tmp_path: Path
) -> None:
    network = make_network()
    run = lct.train(network, data, CONFIG, run_dir=tmp_path)
    for use in (lct.load_network, partial(lct.finetune, exit=1, data=data), partial(lct.densify, data=data)):
        with pytest.raises(lct.RunError, match="network made in a program"):
            use(run)
    again = make_network(seed=5)
    again.load_state_dict(run.read_checkpoint("network."))
    assert torch.equal(again.groups[0][0].weight, network.groups[0][0].weight)
    with pytest.raises(lct.RunError, match=r"data made in a program; evaluate it there with lct\.evaluate$"):
        run.load_data()


def test_data_with_a_relative_name_is_the_same_data_on_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,b,y\n" + "\n".join(f"{i},{-i},{i % 2}" for i in range(40)))
    data = lct.load_data(lct.DataConfig(name="t.csv"))
    recipe = lct.NetworkConfig(model="mlp", model_args={"width": 8, "layers": 2}, groups=2, features=2, num_outputs=2)
    network = lct.build_network(recipe)
    lct.train(network, data, CONFIG, run_dir="run")
    resumed = lct.train(network, data, CONFIG, run_dir="run", resume=True)
    lct.finetune(resumed, 0)
    assert lct.finetune(lct.Run("run"), 0, resume=True).epochs_done == 1


def test_the_newest_run_is_the_one_created_last(tmp_path: Path) -> None:
    with pytest.raises(lct.RunError, match="no run below"):
        newest_run(tmp_path)
    settings = {"network": None, "data": None, "training": {"epochs": 1}}
    for name in ("b", "c", "a", "without a checkpoint"):
        run = create_run(tmp_path / name, settings)
        if name in "abc":
            run.write_checkpoint(1, {"network.x": torch.ones(1)})
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "checkpoint.safetensors").write_bytes(b"")
    assert newest_run(tmp_path).path == tmp_path / "a"
    times = {"a": "2026-01-02T10:00:00+00:00", "b": "2026-01-02T11:00:00+02:00", "c": "2026-01-02T09:30:00-02:00"}
    for name, created in times.items():
        write_json(tmp_path / name / "config.json", {**settings, "created": created})
    assert newest_run(tmp_path).path == tmp_path / "c"
    write_json(tmp_path / "c" / "config.json", {**settings, "training": {"epochs": 3}, "created": times["c"]})
    taken = newest_run(tmp_path)  # c is still training
    assert taken.path == tmp_path / "a"
    newer = {run.path.name: done for run, done in newer_unfinished(taken)}
    assert newer == {"without a checkpoint": 0, "c": 1}
    for name in "ab":
        shutil.rmtree(tmp_path / name)
    assert newest_run(tmp_path).path == tmp_path / "c"


def test_runs_without_a_name_get_one_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"network": {"model": "resnet18"}, "data": None, "training": {}}
    paths = [create_run(None, settings).path for _ in range(3)]
    assert len(set(paths)) == 3
    assert all(path.parent == Path("runs") and path.name.startswith("resnet18-data-") for path in paths)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(lct.RunError, match="cannot be written"):
        create_run(tmp_path / "file" / "run", {"network": None, "data": None, "training": {}})


def test_another_librarys_error_is_one_line_of_bounded_length() -> None:
    assert first_line(ValueError("what\nwhere")) == "what"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 9999))) < 310
