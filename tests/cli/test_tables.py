"""Tables with texts and gaps, from the command line: a run encodes its rows alike in every command."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lctprune.data.tables.encoding import encode_rows
from lctprune.runs import Run
from tests.conftest import Result

Cli = Callable[..., Result]
SMALL = ("--model-args", "width=4,layers=3", "--groups", 2, "--batch-size", 16)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_a_table_of_texts_and_gaps_is_trained_selected_and_resumed(cli: Cli, tmp_path: Path) -> None:
    draw, table, path = random.Random(0), tmp_path / "t.csv", tmp_path / "run"
    with table.open("w", newline="") as file:
        rows = [
            (f'Doe, "{row}"', draw.choice(["male", "female"]), draw.choice(["", 20, 30, 40.5]), draw.choice("SC?"))
            for row in range(80)
        ]
        writer = csv.writer(file)
        writer.writerows([("Name", "Sex", "Age", "Port", "Alive"), *((*row, row[1] == "male") for row in rows)])
    result = cli("train", "mlp", "--data", table, *SMALL, "--epochs", 1, "--out", path)
    assert result.code == 0
    assert "\nTable: 1 number (1 with gaps, filled with the median), 2 texts (5 columns one-hot); left out: Name (" in (
        result.err
    )
    assert cli("select", path, "--budget-flops", "100%").code == 0
    card, run = json.loads((path / "selected" / "model.json").read_text()), Run(path)
    assert run.config.data is not None
    assert [column["name"] for column in card["input"]["encoding"]] == ["Sex", "Age", "Port"]
    test = run.load_data().test
    network = torch.jit.load(path / "selected" / "model.pt")
    with table.open(newline="") as file:
        everybody = encode_rows(run.config.data, list(csv.DictReader(file)))  # type: ignore[arg-type]
    answers = network(everybody)
    found = [next(place for place, row in enumerate(everybody) if torch.equal(row, each)) for each in test.inputs]  # type: ignore[attr-defined]
    assert (answers[found].argmax(1) == test.targets).float().mean().item() == card["test"]["accuracy"]
    assert cli("resume", path, "--epochs", 2).code == 0
    assert cli("evaluate", path, "--json").code == 0
    assert cli("report", path).code == 0
    document = json.loads((path / "config.json").read_text())
    document["data"]["encoding"]["columns"][1]["kind"] = "words"
    (path / "config.json").write_text(json.dumps(document))
    result = cli("evaluate", path)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "encoding.columns[1].kind is 'words'; it must be 'number', 'date', 'text' or 'unused'" in result.err
