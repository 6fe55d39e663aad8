"""The typed record of a run says what config.json says, and names the field that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lctprune as lct
from lctprune.config.run import RunConfig, run_settings

TableRun = Callable[..., lct.Run]


def document(run: lct.Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.path / "config.json").read_text())
    return content


def changed(run: lct.Run, field: str, *value: object) -> RunConfig:
    """Replace a field of the run's config.json, such as "data.config.name"; without a value, remove it."""
    content = document(run)
    *parents, last = field.split(".")
    part = content
    for name in parents:
        part = part[name]
    part.pop(last, None)
    if value:
        (part[last],) = value
    (run.path / "config.json").write_text(json.dumps(content))
    return lct.Run(run.path).config


def test_every_part_round_trips_key_for_key(trained: lct.Run, table_run: TableRun) -> None:
    added = [lct.densify(trained, epochs=1), lct.finetune(trained, 0)]
    for run in (trained, *added, table_run(task="regression")):
        config, recorded = run.config, document(run)
        training = config.training.resolved()
        parts = run_settings(network=config.network, data=config.data, training=training, origin=config.origin)
        assert json.dumps(parts) == json.dumps({name: recorded[name] for name in parts})
        assert config.to_dict() == recorded
        rest = {"created": config.created, "command": [*config.command]}
        rest |= {"format_version": 1, "versions": config.versions, "machine": config.machine}
        assert {**rest, **parts} == recorded


def test_a_run_made_in_a_program_has_no_network_and_no_data(
    make_network: Callable[..., lct.LocalCriticNetwork], data: lct.Data, tmp_path: Path
) -> None:
    run = lct.train(make_network(), data, lct.TrainConfig(epochs=1), run_dir=tmp_path / "run")
    assert (run.config.network, run.config.data, run.config.origin) == (None, None, None)
    assert run.config.training.epochs == 1


@pytest.mark.parametrize(
    ("field", "part"),
    [("data.classes", "data"), ("data.config", "data"), ("data.target.mean", "data"), ("origin.exits", "origin")],
)
def test_a_missing_field_is_named(field: str, part: str, trained: lct.Run) -> None:
    changed(trained, "data.target", {"mean": [0.5], "std": [0.1]})
    changed(trained, "origin", {"checkpoint_sha256": "0", "first_number": 3, "exits": ["at layer1"]})
    config = changed(trained, field)
    with pytest.raises(lct.RunError, match=rf"run/config\.json: {field} is missing; .*train again"):
        getattr(config, part)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("training.epochs", "3", "an integer"),
        ("training.epochs", True, "an integer"),
        ("training.momentum", None, "a number"),
        ("training.freeze_main", 0, "a boolean"),
        ("training.matching", [0], "a number or a string"),
        ("network.groups", 2.5, "an integer"),
        ("network.groups", 1e308, "an integer"),
        ("network.cuts", "layer1", "an array"),
        ("data.mean", 0.5, "an array"),
        ("data.samples", [], "an object"),
        ("data.config.name", None, "a string"),
        ("data.config", "digits", "an object"),
        ("network.model_args", [], "an object"),
    ],
)
def test_a_value_of_another_type_is_named(field: str, value: object, expected: str, trained: lct.Run) -> None:
    config = changed(trained, field, value)
    with pytest.raises(lct.RunError, match=rf"run/config\.json: {field} is .*; it must be {expected}; .*train again"):
        getattr(config, field.partition(".")[0])


def test_a_value_that_this_version_does_not_take_is_refused(trained: lct.Run) -> None:
    config = changed(trained, "training.optimizer", "lion")
    with pytest.raises(lct.RunError, match=r"config\.json: training\.optimizer is 'lion'.*muon"):
        _ = config.training
    assert config.network is not None  # what else there is can be had


@pytest.mark.parametrize("field", ["training.colour", "network.colour", "data.colour", "data.config.colour"])
def test_unknown_settings_are_kept_left_out_and_refused_where_they_matter(field: str, trained: lct.Run) -> None:
    before = trained.config
    config, part = changed(trained, field, "blue"), field.partition(".")[0]
    assert getattr(config, part) == getattr(before, part)
    assert config.to_dict() == document(trained)
    with pytest.raises(lct.RunError, match=rf"run does not fit this version of lctprune \(.*{field}\); do it again"):
        config.require_known(part, remedy="do it again")
    config.require_known("training" if part != "training" else "data")


def test_a_run_of_an_earlier_version_is_measured_all_the_same(trained: lct.Run) -> None:
    """It recorded less, or settings that are gone."""
    known = lct.measure_run(str(trained.path))
    changed(trained, "data.columns")
    changed(trained, "network.critic_pool")
    changed(trained, "training.method")
    changed(trained, "training.blocks")
    config = changed(trained, "training.bygone", 1)
    assert (config.training.method, config.training.blocks) == ("local-critic", None)  # it knew nothing else
    assert config.data is not None
    assert config.data.columns is None
    again = lct.measure_run(lct.Run(trained.path), again=True)
    assert [each.accuracy for each in again] == [each.accuracy for each in known]
