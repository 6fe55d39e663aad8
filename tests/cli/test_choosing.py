"""Choosing by rules and comparing runs on the command line, with what is stored for a later choice."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lctprune as lct
from lctprune.errors import RunError, RunWarning
from lctprune.measure.paired import pairing
from lctprune.workflows.deployment import measure_run
from lctprune.workflows.measurements import read_measurements

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def _measured(_trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(_trained, path)
    measure_run(lct.Run(path))
    return path


@pytest.fixture
def measured(_measured: Path, tmp_path: Path) -> lct.Run:
    """A run whose candidates have been measured; the test's own copy."""
    return lct.Run(shutil.copytree(_measured, tmp_path / "run"))


def test_answers_are_stored_and_need_no_second_measurement(measured: lct.Run, cli: Cli) -> None:
    candidates = measure_run(measured)
    assert all(each.answers is not None and each.answers.right == each.accuracy * 6 for each in candidates)
    stored = (measured.path / "candidates.json").read_bytes()
    assert [each.answers for each in measure_run(measured)] == [each.answers for each in candidates]
    document = cli("select", measured.path, "--prefer", "cheapest-equivalent", "--json").document
    assert (measured.path / "candidates.json").read_bytes() == stored
    assert document["selected"]["exit"] == 0  # six samples tell nothing apart
    assert document["rule"] == {"max_drop": None, "min_accuracy": None, "prefer": "cheapest-equivalent"}
    for record, each in zip(document["against_selected"], candidates, strict=True):
        found = pairing(each, candidates[0])
        assert found is not None
        assert record == {"exit": each.exit, **found._asdict()}
    card = json.loads((measured.path / "selected" / "model.json").read_text())
    assert card["rule"]["prefer"] == "cheapest-equivalent"
    assert cli("report", measured.path).code == 0
    assert "the cheapest that is not significantly worse" in (measured.path / "report.html").read_text()


def test_damaged_answers_are_measured_again(measured: lct.Run) -> None:
    path = measured.path / "candidates.json"
    whole = json.loads(path.read_text())
    correct = whole["answers"]["correct"]
    for wrong, words in (
        ({"correct": {**correct, "0": "AAA="}}, r"correct\.0 is not base64 of 6 bits"),
        ({"correct": {**correct, "0": "/w=="}}, r"correct\.0 is not base64 of 6 bits"),  # bits beyond the samples
        ({"correct": {**correct, "0": "AA=="}}, r"0 right; it must be the accuracy"),
        ({"correct": {}}, "has no exit 0"),
        ({"correct": {"x": "AA=="}}, "'x'; it must have numbers"),
        ({"samples": 0}, "samples is 0"),
    ):
        path.write_text(json.dumps(whole | {"answers": whole["answers"] | wrong}))
        with pytest.raises(RunError, match=words):
            read_measurements(path)
    with pytest.warns(RunWarning, match="all is measured again"):
        measure_run(measured)
    path.write_text(json.dumps({name: value for name, value in whole.items() if name != "answers"}))  # an earlier one
    assert [each.answers for each in measure_run(measured)] == [None] * 3


def test_limits_of_quality_change_the_choice(measured: lct.Run, cli: Cli) -> None:
    candidates = measure_run(measured)
    best = max(candidates, key=lambda each: each.accuracy)
    assert cli("select", measured.path, "--json").document["selected"]["accuracy"] == best.accuracy
    document = cli("select", measured.path, "--max-drop", 100, "--json").document
    assert document["selected"]["exit"] == min(candidates, key=lambda each: each.flops or 0).exit
    names = [min(candidates, key=lambda each: each.flops or 0).name, best.name]
    for options, earlier, now in (
        (("--max-drop", 100), *names[:1], names[0]),
        ((), *names),
        (("--max-drop", 100), *names[::-1]),
    ):
        err = cli("select", measured.path, *options).err
        assert (f"held {earlier} from before; {now} has replaced it" in err) is (earlier != now)
    nothing = cli("select", measured.path, "--budget-size", f"{candidates[0].size_bytes - 1}B", "--json")
    assert nothing.code == 3
    assert json.loads(nothing.out)["misses"]["size_bytes"] > 1
    refused = cli("select", measured.path, "--min-accuracy", "90")
    assert (refused.code, "0.9 for 90%" in refused.err) == (2, True)


def test_compare_puts_runs_of_any_method_into_one_table(measured: lct.Run, cli: Cli, tmp_path: Path) -> None:
    other = shutil.copytree(measured.path, tmp_path / "other")
    out = tmp_path / "out"
    document = cli("compare", measured.path, other, "--out", out, "--json").document
    assert [record["run"] for record in document["candidates"]] == ["run"] * 3 + ["other"] * 3
    assert all(record["against_best"]["p_value"] <= 1 for record in document["candidates"])
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["run"] * 3 + ["other"] * 3
    assert (out / "comparison.png").stat().st_size > 1000
    chosen = cli("select", measured.path, "--compare", other)
    assert "exact McNemar test against the best of all" in chosen.out
    assert (measured.path / "comparison.svg").exists()


def test_runs_that_cannot_be_compared(measured: lct.Run, cli: Cli, tmp_path: Path) -> None:
    twice = cli("compare", measured.path, measured.path, "--out", tmp_path / "out")
    assert (twice.code, "given twice" in twice.err) == (2, True)
    other = tmp_path / "other"
    shutil.copytree(measured.path, other)
    config = json.loads((other / "config.json").read_text())
    config["data"]["config"]["name"] = "elsewhere/birds"
    (other / "config.json").write_text(json.dumps(config))
    refused = cli("compare", measured.path, other, "--out", tmp_path / "out")
    assert (refused.code, "birds" in refused.err) == (2, True)
    assert not (tmp_path / "out").exists()
    assert cli("compare", measured.path, tmp_path / "nosuch").code == 1
