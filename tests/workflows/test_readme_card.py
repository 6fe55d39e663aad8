"""README.md beside exported files, against model.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lctprune as lct
from lctprune.workflows.readme_card import MARK, README, readme_text

Cli = Callable[..., Any]
yaml = pytest.importorskip("yaml")


def header(text: str) -> Any:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_of_a_selection_says_what_was_measured(cli: Cli, trained: lct.Run, tmp_path: Path) -> None:
    assert cli("select", trained.path, "--budget-params", "90%", "--out", tmp_path).code == 0
    text, card = (tmp_path / README).read_text(), json.loads((tmp_path / "model.json").read_text())
    found = header(text)
    (model,) = found["model-index"]
    assert found["pipeline_tag"] == "image-classification"
    assert found["tags"] == ["lctprune", "torchscript", "state-dict"]
    assert [(each["dataset"]["split"], each["metrics"]) for each in model["results"]] == [
        (split, [{"type": "accuracy", "value": card[split]["accuracy"]}]) for split in ("validation", "test")
    ]
    validation = card["validation"]
    assert f"| this network | validation | {validation['samples']} | accuracy | {validation['accuracy']:.1%} |" in text
    assert card["sha256"] in text
    assert "1 FLOP is one multiply or one add" in text
    assert card["machine"]["platform"].replace("_", "\\_") in text


def test_a_card_of_somebody_else_stays(cli: Cli, trained: lct.Run, tmp_path: Path) -> None:
    (tmp_path / README).write_text("mine")
    assert cli("export", trained.path, "--exit", 0, "--out", tmp_path).code == 0
    assert (tmp_path / README).read_text() == "mine"
    (tmp_path / README).write_text(MARK)
    assert cli("export", trained.path, "--exit", 0, "--out", tmp_path).code == 0
    assert "main network" in (tmp_path / README).read_text()


def test_names_of_classes_are_no_markup(cli: Cli, trained: lct.Run, tmp_path: Path) -> None:
    assert cli("export", trained.path, "--exit", 0, "--out", tmp_path).code == 0
    card = json.loads((tmp_path / "model.json").read_text())
    text = readme_text({**card, "classes": ["<b>", "a|b", "[c](d)\n# e"]}, trained.config)
    assert r"Classes: \<b\>, a\|b, \[c\](d)\n\# e." in text.replace("\\\\n", "\\n")
    assert header(text)["model-index"][0]["name"] == header((tmp_path / README).read_text())["model-index"][0]["name"]
