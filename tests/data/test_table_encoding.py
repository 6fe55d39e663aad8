"""Tables of texts, dates and gaps: encoded by the training split alone, as by scikit-learn; recorded and read back."""

from __future__ import annotations

import csv
import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor

import lctprune as lct
from lctprune.config.reading import from_json
from lctprune.config.run import DataRecord
from lctprune.data.dataset import data_record, recorded_statistics
from lctprune.data.tables.encoding import encode_rows, summary
from lctprune.data.tables.fitting import MOST_CATEGORIES
from lctprune.models.build import fitted
from lctprune.workflows.model_card import input_record

NAMES = ["Id", "Name", "Sex", "Age", "Town", "Fare", "Port", "Born", "Survived"]
Rows = list[list[str]]


def passengers(count: int = 200, seed: int = 0) -> Rows:
    """Rows of a number, a name, texts with and without gaps, numbers with and without them, a date and the target."""
    draw = random.Random(seed)
    return [
        [
            str(row + 1),
            f'Doe, Mr. "{row}"',
            draw.choice(["male", "female"]),
            draw.choice(["", "?", *(f"{draw.gauss(30, 14):.1f}" for _ in range(6))]),
            f"town{int(draw.expovariate(0.05))}",
            f"{draw.expovariate(0.03):.4f}",
            draw.choice(["S", "C", "Q", "N/A"]),
            draw.choice(["", f"19{draw.randrange(10, 99)}-0{draw.randrange(1, 9)}-1{draw.randrange(9)}"]),
            str(draw.randrange(2)),
        ]
        for row in range(count)
    ]


def write(path: Path, rows: Sequence[Sequence[object]], names: Sequence[str] = NAMES) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def load(path: Path, **changes: object) -> lct.Data:
    return lct.load_data(lct.DataConfig(name=str(path), **{"target": "Survived", **changes}))  # type: ignore[arg-type]


def inputs_of(split: lct.Split) -> Tensor:
    assert isinstance(split, lct.TensorSplit)
    return split.inputs


def rows_of(path: Path) -> dict[str, list[int]]:
    """Find the rows of each split by a table of the same targets and of numbers alone, which has always been read."""
    with path.open(newline="", encoding="utf-8") as file:
        targets = [row["Survived"] for row in csv.DictReader(file)]
    numbers = write(path.with_name("numbers.csv"), list(enumerate(targets)), ["row", "Survived"])
    data = load(numbers)
    assert data.encoding is None
    assert data.normalization is not None
    (mean,), (std,) = data.normalization
    return {
        name: [round(value) for value in (inputs_of(getattr(data, name))[:, 0] * std + mean).tolist()]
        for name in ("train", "val", "test")
    }


def record_of(data: lct.Data) -> DataRecord:
    """Return the record of data, as it is read back from config.json."""
    record = data_record(data)
    assert record is not None
    text = json.dumps(record, default=lambda value: value.__dict__)
    return from_json(DataRecord, json.loads(text), "data", file=Path("config.json"))


@pytest.mark.parametrize("seed", [0, 1])
def test_inputs_are_those_of_scikit_learn_fitted_on_the_training_split(seed: int, tmp_path: Path) -> None:
    rows = passengers(seed=seed)
    table = write(tmp_path / "t.csv", rows)
    data, parts = load(table), rows_of(table)
    assert data.encoding is not None
    assert [column.name for column in data.encoding.used] == ["Sex", "Age", "Town", "Fare", "Port", "Born"]

    def number(text: str) -> float:
        return math.nan if text in ("", "?") else float(text)

    def days(text: str) -> float:
        return float(numpy.datetime64(text).astype(int)) if text else math.nan

    matrix = numpy.array(
        [
            [sex, number(age), town, float(fare), "" if port == "N/A" else port, days(born)]
            for _, _, sex, age, town, fare, port, born, _ in rows
        ],
        dtype=object,
    )
    one_hot = OneHotEncoder(
        min_frequency=2,
        max_categories=MOST_CATEGORIES,
        handle_unknown="infrequent_if_exist",
        sparse_output=False,
        feature_name_combiner=lambda _, category: str(category),
    )
    filled = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    gaps = MissingIndicator(features="all")
    oracle = ColumnTransformer(
        [
            ("sex", one_hot, [0]),
            *[("age", filled, [1]), ("no age", gaps, [1])],
            ("town", one_hot, [2]),
            ("fare", StandardScaler(), [3]),
            ("port", one_hot, [4]),
            *[("born", filled, [5]), ("not born", gaps, [5])],
        ],
        sparse_threshold=0,
    )
    for name, indices in parts.items():
        expected = oracle.fit_transform(matrix[indices]) if name == "train" else oracle.transform(matrix[indices])
        found = inputs_of(getattr(data, name))
        torch.testing.assert_close(found, torch.from_numpy(expected.astype(numpy.float32)), rtol=1e-5, atol=1e-5)


def test_rows_that_are_not_trained_on_change_nothing(tmp_path: Path) -> None:
    rows = passengers()
    table = write(tmp_path / "t.csv", rows)
    data, parts = load(table), rows_of(table)
    for index in [*parts["val"], *parts["test"]]:
        rows[index][:8] = ["x", "same", "unheard of", "unknown", "town0", "", "S", "2090-01-01"]
    with pytest.warns(lct.DataWarning, match="texts among numbers are taken for missing: Age 'unknown'"):
        again = load(write(table, rows))
    assert again.encoding == data.encoding
    assert again.normalization == data.normalization
    assert torch.equal(inputs_of(again.train), inputs_of(data.train))
    for split in (again.val, again.test):
        named = dict(zip(again.columns, inputs_of(split).T, strict=True))
        assert not any(named[f"Sex={sex}"].any() for sex in ("male", "female"))
        assert named["Age missing"].eq(1).all()


@pytest.mark.filterwarnings("ignore:id of:lctprune.errors.DataWarning")
def test_a_gap_outside_the_training_split_leaves_a_table_of_numbers_as_it_was(tmp_path: Path) -> None:
    rows = [[index, 7, index * index % 13, index % 2] for index in range(40)]
    names = ["id", "same", "a", "Survived"]
    table = write(tmp_path / "t.csv", rows, names)
    before, parts = load(table), rows_of(table)
    gap = parts["test"][0]
    rows[gap][2] = ""  # type: ignore[call-overload]
    after = load(write(table, rows, names))
    assert torch.equal(inputs_of(after.train), inputs_of(before.train))
    assert after.normalization == before.normalization
    assert after.columns == before.columns == ("id", "same", "a")
    assert before.encoding is None
    assert after.encoding is not None
    assert after.encoding.columns[2].fill == numpy.median([index * index % 13 for index in parts["train"]])


def some(*cells: str, count: int = 60) -> list[str]:
    return [cells[index % len(cells)] for index in range(count)]


def each(text: str, count: int = 60) -> list[str]:
    return [text.format(index) for index in range(count)]


@pytest.mark.parametrize(
    ("name", "cells", "expected"),
    [
        ("a", some("True", "false"), "a=True a=false"),
        ("a", some("yes", "no", ""), "a missing a=no a=yes"),
        ("a", some("7"), "always the same"),
        ("a", some("red"), "always the same"),
        ("a", some("7", "7", "", "7"), "a a missing"),
        ("a", some("", "N/A", "?"), "empty"),
        ("a", each("{}"), "a"),
        ("customerId", each("7{}"), "numbers the rows"),
        ("row_id", each("{}"), "numbers the rows"),
        ("paid", each("{}"), "paid"),
        ("a", each("name {}"), "most rows have a value of their own"),
        ("a", [*each("PC 1{}", 20), *each("{}55", 40)], "numbers beside texts, such as 'PC 1"),
        ("a", each("{} kg"), "numbers with marks, such as '"),
        ("a", each("${},000.50"), "numbers with marks, such as '"),
        ("a", each("{}/1/2020"), "dates not written as 2026-01-31, such as '"),
        ("a", [f"2026-01-{1 + index % 31:02}" for index in range(60)], "a"),
        ("a", [f"2026-01-{1 + index % 31:02} 10:{index:02}:00" for index in range(60)], "a"),
        ("a", some("1", "2", "3", "A", "B"), "a=1 a=2 a=3 a=A a=B"),
        ("a", ["unknown" if index % 5 == 0 else f"{index}" for index in range(60)], "a a missing"),
        ("a", some("x" * 2000, "y"), "texts of more than 1000 characters"),
        ("2019", some("lo", "hi"), "2019=hi 2019=lo"),
    ],
)
@pytest.mark.filterwarnings("ignore::lctprune.errors.DataWarning")
def test_what_becomes_of_a_column(name: str, cells: Sequence[str], expected: str, tmp_path: Path) -> None:
    rows = [[cell, "uv"[index // 2 % 2], index % 2] for index, cell in enumerate(cells)]
    data = load(write(tmp_path / "t.csv", rows, [name, "kind", "Survived"]))
    assert data.encoding is not None
    column = data.encoding.columns[0]
    assert " ".join(column.names).startswith(expected) if column.kind != "unused" else expected in column.reason
    assert data.columns[-2:] == ("kind=u", "kind=v")
    assert column.reason in summary(data.encoding)


def test_many_categories_are_bounded_and_unseen_ones_are_counted_with_the_rare(tmp_path: Path) -> None:
    rows = [[f"k{index % 700}", index % 2] for index in range(3000)] + [["often", 1]] * 100
    data = load(write(tmp_path / "t.csv", rows, ["place", "Survived"]))
    assert inputs_of(data.train).shape[1] == MOST_CATEGORIES
    assert data.encoding is not None
    assert "1 text as categories (place; 50 columns one-hot; rare values of place as one)" in summary(data.encoding)
    encoded = encode_rows(record_of(data), [{"place": "often"}, {"place": "never seen"}, {"place": None}])
    places = encoded.argmax(1).tolist()
    assert encoded.sum(1).tolist() == [1, 1, 1]
    assert [data.columns[place] for place in places] == ["place=often", "place other", "place other"]


def test_the_summary_says_what_is_used_and_what_is_not(tmp_path: Path) -> None:
    encoding = load(write(tmp_path / "t.csv", passengers())).encoding
    assert encoding is not None
    text = summary(encoding)
    assert re.match(r"2 numbers \(\w+, \w+; 1 with gaps, filled with the median\), 1 date as days \(\w+; 1 with", text)
    assert re.search(r"3 texts as categories \(\w+, \w+, \w+; \d+ columns one-hot; rare", text)
    assert "rare values of Town as one)" in text
    assert text.endswith("; left out: Id (numbers the rows), Name (most rows have a value of their own)")


# --- recorded and read back ------------------------------------------------------------------------------------------


def test_a_record_encodes_the_same_rows_alike(tmp_path: Path) -> None:
    rows = passengers()
    table = write(tmp_path / "t.csv", rows)
    data, parts = load(table), rows_of(table)
    record = record_of(data)
    again = lct.load_data(record.config, **recorded_statistics(record)._asdict())
    held_out = [dict(zip(NAMES[:-1], rows[index][:-1], strict=True)) for index in parts["val"]]
    shuffled = write(
        tmp_path / "new.csv", [[row[name] for name in NAMES[:-1][::-1]] for row in held_out], NAMES[:-1][::-1]
    )
    used = [{key: row[key] or None for key in ("Sex", "Age", "Town", "Fare", "Port", "Born")} for row in held_out]
    for found in (inputs_of(again.val), encode_rows(record, str(shuffled)), encode_rows(record, used)):
        assert torch.equal(found, inputs_of(data.val))
    typed = encode_rows(record, [{**used[0], "Fare": 7.25, "Age": math.nan}])
    assert torch.equal(typed, encode_rows(record, [{**used[0], "Fare": "7.25", "Age": ""}]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Fare": "7,25"}, "line 1: Fare is '7,25'; it must be a number, with a decimal point"),
        (
            {"Fare": "inf"},
            "Fare is 'inf'; it must be a number between -1e+100 and 1e+100, or empty where it is",
        ),
        ({"Born": "1.2.1990"}, "Born must be a date as 2026-01-31"),
    ],
)
def test_rows_that_cannot_be_encoded_are_refused(change: dict[str, str], words: str, tmp_path: Path) -> None:
    record = record_of(load(write(tmp_path / "t.csv", passengers())))
    row = dict(zip(NAMES, passengers()[0], strict=True)) | change
    with pytest.raises(lct.DataError) as caught:
        encode_rows(record, [row])
    assert words in str(caught.value)
    del row["Sex"], row["Town"]
    with pytest.raises(lct.DataError, match="row 1 has no Sex, Town, which the training data has; it has Id"):
        encode_rows(record, [row])
    with pytest.raises(lct.DataError, match="no rows"):
        encode_rows(record, [])


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.filterwarnings("ignore::lctprune.errors.DataWarning")
def test_rows_of_a_table_of_numbers_are_standardised(named: bool, tmp_path: Path) -> None:
    rows = [[f"{index}.5", index % 2] for index in range(40)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["size,kind"] * named + [f"{size},{kind}" for size, kind in rows]))
    data = lct.load_data(table)
    assert data.encoding is None
    column = tmp_path / "new.csv"
    column.write_text("\n".join(["size"] * named + ["3.5", "4.5"]))
    size = "size" if named else "1"
    found = encode_rows(record_of(data), column)
    assert torch.equal(found, encode_rows(record_of(data), [{size: 3.5}, {size: "4.5", "more": 1}]))
    assert data.normalization is not None
    (mean,), (std,) = data.normalization
    torch.testing.assert_close(found[:, 0], (torch.tensor([3.5, 4.5]) - mean) / std)


def by_hand(card: dict[str, Any], row: dict[str, str]) -> list[float]:
    """Make an input of a row as model.json says, without lctprune."""
    values: list[float] = []
    for column in card["encoding"]:
        cell = row[column["name"]].strip()
        is_missing = cell.lower() in card["missing"]
        if column["kind"] == "text":
            hot = [float(("" if is_missing else cell) == category) for category in column["categories"]]
            values += hot + [float(not any(hot))] * column["other"]
            continue
        number = float(numpy.datetime64(cell).astype(int)) if column["kind"] == "date" and not is_missing else cell
        values.append(column["fill"] if is_missing else float(number))
        values += [float(is_missing)] * column["marks_gaps"]
    return [(value - mean) / std for value, mean, std in zip(values, card["mean"], card["std"], strict=True)]


def test_the_model_card_says_how_a_row_is_encoded(tmp_path: Path) -> None:
    rows = passengers()
    table = write(tmp_path / "t.csv", rows)
    data, parts = load(table), rows_of(table)
    card = json.loads(json.dumps(input_record(fitted(lct.NetworkConfig(model="mlp"), data), record_of(data))))
    assert card["columns"] == list(data.columns)
    inputs = [by_hand(card, dict(zip(NAMES, rows[index], strict=True))) for index in parts["test"]]
    torch.testing.assert_close(torch.tensor(inputs), inputs_of(data.test))


# --- folders, and what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_validation", [False, True])
def test_the_tables_of_a_folder_are_its_splits(has_validation: bool, tmp_path: Path) -> None:
    rows = passengers()
    write(tmp_path / "train.csv", rows[:120])
    write(tmp_path / "test.csv", [row[::-1] for row in rows[160:]], NAMES[::-1])
    if has_validation:
        write(tmp_path / "val.csv", rows[120:160])
    data = load(tmp_path)
    assert [len(split.targets) for split in (data.train, data.val, data.test)] == (
        [120, 40, 40] if has_validation else [108, 12, 40]
    )
    assert data.val_from_train is not has_validation
    assert data.test.targets.tolist() == [int(row[-1]) for row in rows[160:]]
    again = encode_rows(record_of(data), tmp_path / "test.csv")
    assert torch.equal(inputs_of(data.test), again)
    alone = load(tmp_path, task="regression", target="Fare")
    assert len(alone.test.targets) == 40
    write(tmp_path / "test.csv", rows[161:])
    assert load(tmp_path).fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("names", "change", "words"),
    [
        (NAMES[:-1], {}, "test.csv has no column Survived, which is to be predicted"),
        (
            [name for name in NAMES if name not in ("Sex", "Fare")],
            {},
            "test.csv has no columns Sex, Fare, which the",
        ),
        (NAMES, {"Survived": "2"}, "test.csv, line 2: Survived is '2', which does not occur in train.csv"),
        (NAMES, {"Fare": "7 pounds"}, "test.csv, line 2: Fare is '7 pounds'; it must be a number"),
        (NAMES, None, "test.csv has no rows below the names of its columns"),
    ],
)
def test_a_test_table_that_does_not_fit_is_refused(
    names: list[str], change: dict[str, str] | None, words: str, tmp_path: Path
) -> None:
    rows = passengers()
    write(tmp_path / "train.csv", rows)
    row = dict(zip(NAMES, rows[0], strict=True)) | (change or {})
    write(tmp_path / "test.csv", [] if change is None else [[row[name] for name in names]], names)
    with pytest.raises(lct.DataError) as caught:
        load(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_for_tables_is_refused_for_other_folders(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(lct.ConfigError, match=r"target is 'Survived', a column of a table; but .* has no train\.csv"):
        load(image_folder)
    write(tmp_path / "people.csv", passengers())
    with pytest.raises(lct.DataError, match=r"no train\.csv \(people\.csv\); .* give `name=.*people\.csv"):
        load(tmp_path)


def test_an_unnamed_column_of_row_numbers_is_left_out(tmp_path: Path) -> None:
    rows = [[index, index * 3 % 7, index % 2] for index in range(40)]
    data = load(write(tmp_path / "t.csv", rows, ["", "a", "Survived"]))
    assert data.columns == ("a",)
    assert data.encoding is not None
    assert summary(data.encoding) == "1 number (a); left out: column 1 (no name)"
    record = record_of(data)
    assert lct.load_data(record.config, **recorded_statistics(record)._asdict()).columns == ("a",)


def test_a_table_without_a_usable_column_is_refused(tmp_path: Path) -> None:
    rows = [[f"a sentence of {index}", "", index % 2] for index in range(40)]
    with pytest.raises(lct.DataError) as caught:
        load(write(tmp_path / "t.csv", rows, ["text", "note", "Survived"]))
    words = (
        "no column to learn from besides what is predicted: text (most rows have a value of their own), note (empty)"
    )
    assert words in str(caught.value)
    assert "train.tsv" in str(caught.value)


def test_a_table_too_wide_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lctprune.data.tables.encoding.MOST_VALUES", 1000)
    with pytest.raises(lct.DataError, match=r"has 200 rows, and its texts make \d+ columns: [\d,]+ values, .* 1,000"):
        load(write(tmp_path / "t.csv", passengers()))


def test_a_last_column_of_text_among_others_is_said_to_be_predicted(tmp_path: Path) -> None:
    rows = [["uv"[index % 2], "ab"[index // 2 % 2]] for index in range(40)]
    with pytest.warns(lct.DataWarning, match="kind, the last one, is predicted; for another one: `target=COL"):
        assert lct.load_data(write(tmp_path / "t.csv", rows, ["a", "kind"])).classes == ("a", "b")
