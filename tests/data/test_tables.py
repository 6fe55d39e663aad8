"""Data sets from a table: their splits and standardisation, and what is refused with its line and column."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lctprune as lct


def write(path: Path, header: str, rows: Sequence[Sequence[object]]) -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def numbered(count: int, seed: int = 0) -> list[tuple[float, int, str]]:
    """Rows of a random number, the row's own number, and one of two names."""
    draw = random.Random(seed)
    return [(round(draw.gauss(5, 3), 3), index, "no" if index % 4 else "yes") for index in range(count)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "t.csv", "size, row ,kind", numbered(60))


def load(table: Path, **changes: object) -> lct.Data:
    return lct.load_data(lct.DataConfig(name=str(table), **{"val_fraction": 0.25, **changes}))


def inputs_of(split: lct.Split) -> Tensor:
    assert isinstance(split, lct.TensorSplit)
    assert split.inputs.dtype == torch.float32
    return split.inputs


def rows_of(data: lct.Data, split: lct.Split) -> list[int]:
    """Recover the numbers of the rows from the standardised column."""
    assert data.normalization is not None
    values = inputs_of(split)[:, 1] * data.normalization.std[1] + data.normalization.mean[1]
    return [round(value) for value in values.tolist()]


def error_of(table: Path, **changes: object) -> str:
    with pytest.raises(lct.DataError) as caught:
        load(table, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- splits and standardisation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"task": "regression"}], ids=["classes", "regression"])
def test_splits_are_disjoint_and_complete(options: dict[str, object], tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "other,row,label", [(index % 2, index, index % 2) for index in range(60)])
    data = load(table, **options)
    parts = [rows_of(data, split) for split in (data.train, data.val, data.test)]
    assert [len(part) for part in parts] == [36, 12, 12]
    assert sorted(row for part in parts for row in part) == list(range(60))
    assert [part == sorted(part) for part in parts] == [True] * 3
    other = load(table, seed=1, **options)
    assert rows_of(other, other.test) == parts[2]
    assert rows_of(other, other.val) != parts[1]


def test_classes_are_names_in_their_order_and_shared_alike(table: Path) -> None:
    data = load(table)
    assert data.classes == ("no", "yes")
    assert data.columns == ("size", "row")
    assert data.target_normalization is None
    assert [split.targets.bincount().tolist() for split in (data.train, data.val, data.test)] == [
        [27, 9],
        [9, 3],
        [9, 3],
    ]
    for split in (data.train, data.val, data.test):
        assert split.targets.tolist() == [0 if row % 4 else 1 for row in rows_of(data, split)]


def test_columns_are_standardised_by_the_training_split_alone(table: Path) -> None:
    data = load(table)
    train = inputs_of(data.train)
    torch.testing.assert_close(train.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(train.std(0, correction=0), torch.ones(2))
    sizes = [number for number, _, _ in numbered(60)]
    expected = torch.tensor([sizes[row] for row in rows_of(data, data.train)])
    assert data.normalization is not None
    assert data.normalization.mean[0] == pytest.approx(expected.mean().item(), rel=1e-6)
    assert data.normalization.std[0] == pytest.approx(expected.std(correction=0).item(), rel=1e-6)
    lines = table.read_text().splitlines()
    test_row = rows_of(data, data.test)[0]
    lines[1 + test_row] = (
        f"1e6,{test_row},{'no' if test_row % 4 else 'yes'}"  # a change of the test split changes nothing else
    )
    table.write_text("\n".join(lines))
    again = load(table)
    assert again.normalization == data.normalization
    assert torch.equal(inputs_of(again.train), train)
    assert again.fingerprint != data.fingerprint


def test_the_target_of_a_regression_is_standardised_too(tmp_path: Path) -> None:
    data = load(write(tmp_path / "t.csv", "a,b,y", [(i, i * i, 100 + 10 * i) for i in range(50)]), task="regression")
    assert data.classes == ()
    assert data.num_outputs == 1
    assert data.columns == ("a", "b")
    assert data.train.targets.shape == (30, 1)
    assert data.train.targets.mean().item() == pytest.approx(0, abs=1e-6)
    assert data.normalization is not None
    assert data.target_normalization is not None
    (mean,), (std,) = data.target_normalization
    for split in (data.train, data.val, data.test):
        a = inputs_of(split)[:, 0] * data.normalization.std[0] + data.normalization.mean[0]
        torch.testing.assert_close(split.targets[:, 0] * std + mean, 100 + 10 * a, rtol=1e-4, atol=1e-3)


def test_the_target_is_the_last_column_or_the_one_that_is_named(table: Path) -> None:
    assert load(table).columns == ("size", "row")
    rows = [(index % 3, number, index) for number, index, _ in numbered(60)]
    other = write(table.with_name("other.csv"), "kind,size,row", rows)
    assert load(other, target="kind").classes == ("0", "1", "2")
    assert load(other, target="kind").columns == ("size", "row")
    assert load(other, target="size", task="regression").columns == ("kind", "row")
    with pytest.warns(lct.DataWarning, match=r"row, the last one, is predicted; for another one: `target=COLUMN"):
        assert load(other, task="regression").columns == ("kind", "size")
    assert "no column 'nosuch'; it has kind, size, row" in error_of(other, target="nosuch")


@pytest.mark.parametrize(
    "name", ["label", "Class", "target", "species", "class_label", "y", "Diagnosis", "ground truth", "labels"]
)
def test_a_column_of_a_usual_name_is_predicted_and_said(name: str, tmp_path: Path) -> None:
    rows = [(index % 2, index, number) for number, index, _ in numbered(40)]
    table = write(tmp_path / "t.csv", f"{name},row,size", rows)
    with pytest.warns(lct.DataWarning, match=rf"t\.csv: {name} is predicted, as its name says; .* `target=COLUMN"):
        data = load(table)
    assert data.columns == ("row", "size")
    assert data.classes == ("0", "1")
    assert load(table, target="size", task="regression").columns == (name, "row")
    again = lct.load_data(lct.DataConfig(name=str(table)), columns=("row", "size"))  # of a run, without a word
    assert again.columns == ("row", "size")
    regression = lct.DataConfig(name=str(table), task="regression")
    assert lct.load_data(regression, columns=(name, "row")).columns == (name, "row")


@pytest.mark.parametrize(
    ("header", "columns", "note"),
    [
        ("class,a,label", "class a", "label, the last column, is predicted, and class is an input"),
        ("y,x,value", "y x", "value, the last one, is predicted"),
        ("a,b,target", "a b", None),
    ],
)
def test_which_of_several_columns_is_predicted(header: str, columns: str, note: str | None, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", header, [(index % 2, index, index % 3) for index in range(40)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert load(table).columns == tuple(columns.split())
    assert len(caught) == (note is not None)
    assert all(note in str(warning.message) for warning in caught if note)


def test_several_columns_of_usual_names_are_asked_about(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "label,class,a", [(index % 2, index % 2, index) for index in range(40)])
    assert "may be what to predict (label, class); say which: `target" in error_of(table)


def test_a_table_without_names_says_which_column_is_predicted(tmp_path: Path) -> None:
    table = write(
        tmp_path / "wine.data", "1,14.23,1065", [(index % 2 + 1, index + 0.5, index % 4) for index in range(40)]
    )
    with pytest.warns(lct.DataWarning) as caught:
        assert load(table).columns == ("1", "2")
    assert [
        text for text in map(str, (each.message for each in caught)) if "column 3, the last one, is predicted" in text
    ]
    with pytest.warns(lct.DataWarning, match="no line of names"):
        assert load(table, target="1").classes == ("1", "2")


@pytest.mark.parametrize("value", ["0.1", "0", "-7e9"])
def test_a_constant_column_says_nothing(value: str, tmp_path: Path) -> None:
    data = load(write(tmp_path / "t.csv", "c,a,y", [(value, i, i % 2) for i in range(40)]))
    for split in (data.train, data.val, data.test):
        torch.testing.assert_close(inputs_of(split)[:, 0], torch.zeros(len(split.targets)))
    assert data.normalization is not None
    assert data.normalization.std[0] == 1


def test_large_numbers_that_differ_little_stay_different(tmp_path: Path) -> None:
    rows = [(1_700_000_000 + i, i, i % 2) for i in range(40)]  # seconds since 1970, which float32 cannot tell apart
    data = load(write(tmp_path / "t.csv", "time,a,y", rows))
    torch.testing.assert_close(inputs_of(data.train)[:, 0], inputs_of(data.train)[:, 1], rtol=1e-4, atol=1e-5)


def test_what_spreadsheets_write_is_read(tmp_path: Path) -> None:
    path = tmp_path / "T.CSV"
    lines = ["\ufeffa,y", *(f'"{i}", {"one" if i % 2 else "two"} ' for i in range(20)), ""]
    path.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    data = load(path)
    assert data.columns == ("a",)
    assert data.classes == ("one", "two")


# --- what is refused -------------------------------------------------------------------------------------------------

ROWS = [(i, i % 2) for i in range(20)]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("12 cm", "width is '12 cm'; it must be a number, with a decimal point and no other mark, or empty where"),
        ("inf", "width is 'inf'; it must be a number between -1e+100 and 1e+100"),
        ("1e308", "width is '1e308'; it must be a number between"),
        ("-1e999", "width is '-1e999'; it must be a number between"),
        ("1,5", "width is '1,5'; it must be a number, with a decimal point"),
        ("1_000", "width is '1_000'; it must be a number"),
        ("long 1 " * 40, "width is 'long 1 long 1 long 1 long 1 long 1 lo...'"),
    ],
)
def test_a_cell_that_is_no_number_is_named(cell: str, words: str, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "width,y", [*ROWS[:10], (f'"{cell}"', 1), *ROWS[10:]])
    assert f"t.csv, line 12: {words}" in error_of(table)


def test_a_value_far_from_the_training_split_is_refused(tmp_path: Path) -> None:
    rows = [(0.0, i % 2) for i in range(40)]
    test_row = next(
        index
        for index in range(40)
        if float(load(write(tmp_path / "t.csv", "a,y", [*rows[:index], (5, 0), *rows[index + 1 :]])).test.inputs.max())
    )
    table = write(tmp_path / "t.csv", "a,y", [*rows[:test_row], (1e99, 0), *rows[test_row + 1 :]])
    assert f"line {test_row + 2}: a is '1e+99', too far from the training split's mean of 0" in error_of(table)


@pytest.mark.parametrize("name", ["id", "Unnamed: 0"])
def test_a_column_that_numbers_the_rows_gets_a_warning(name: str, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", f"{name},a,y", [(7 * i, i % 5, i % 2) for i in range(40)])
    with pytest.warns(lct.DataWarning, match=f"{name} of .* is another whole number in every row"):
        data = load(table)
    lct.load_data(data.config, columns=data.columns)  # a run that knows the table does not warn again


@pytest.mark.parametrize("mark", ["\x1f", "\xa0", "\v"])
def test_whatever_blanks_stand_around_numbers(mark: str, tmp_path: Path) -> None:
    batches = []
    for blank in ("", mark):
        rows = [",".join(f"{blank}{cell}{blank}" for cell in (n % 5, n % 7, n % 3 / 2)) for n in range(30)]
        path = tmp_path / f"{len(blank)}.csv"
        path.write_text("\n".join(["a,b,y", *rows]))
        batches += next(lct.load_data(lct.DataConfig(name=str(path), task="regression")).train.batches(99))
    for plain, marked in zip(batches[:2], batches[2:], strict=True):
        torch.testing.assert_close(plain, marked, rtol=0, atol=0)


def test_a_target_that_is_no_number_is_named(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "width,y", [*ROWS, (1, "high")])
    assert "line 22: y is 'high'; it must be a number, with a decimal point" in error_of(table, task="regression")
    table = write(tmp_path / "t.csv", "width,y", [*ROWS, (1, "")])
    assert "line 22: y is missing (''); it must be a number: fill it in" in error_of(table, task="regression")
    table = write(tmp_path / "t.csv", "width,y", [(row, "ab"[kind]) for row, kind in ROWS])
    assert "y is 'a'; it must be a number: to predict texts, leave out `task" in error_of(table, task="regression")


def test_a_class_without_a_name_is_refused(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "width,y", [*ROWS, (1, " ")])
    assert "line 22: y is empty" in error_of(table)


def test_one_class_only(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "width,y", [(i, "same") for i in range(20)])
    assert "only one class" in error_of(table)
    assert "'same'" in error_of(table)


@pytest.mark.parametrize("row", [(1,), (1, 2, 3)], ids=str)
def test_rows_of_another_length(row: tuple[int, ...], tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "a,y", [*ROWS, row])
    assert f"line 22 has {len(row)} cells; line 1 has 2" in error_of(table)


def test_too_few_rows(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "a,y", ROWS[:9])
    message = error_of(table, task="regression")
    assert "has 9 rows" in message
    assert "at least 10" in message
    table = write(tmp_path / "t.csv", "a,y", ROWS[:10])
    for task in ("regression", "classification"):
        data = load(table, task=task)
        assert [len(split.targets) for split in (data.train, data.val, data.test)] == [6, 2, 2]
    assert "too few to hold out 99%" in error_of(table, task="regression", val_fraction=0.99)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "nosuch.csv cannot be read" in error_of(tmp_path / "nosuch.csv")
    (tmp_path / "bytes.csv").write_bytes(b"a,y\n\xff,1\n")
    assert "bytes.csv cannot be read" in error_of(tmp_path / "bytes.csv")


def test_a_regression_needs_a_table() -> None:
    with pytest.raises(lct.ConfigError, match="regression needs a table"):
        lct.DataConfig(name="digits", task="regression")
    with pytest.raises(lct.ConfigError, match="task is 'ranking'"):
        lct.DataConfig(name="t.csv", task="ranking")


def test_a_regression_needs_targets_that_differ(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "a,target", [(i, 3.5) for i in range(20)])
    message = error_of(table, task="regression")
    assert "target is always 3.5; a regression needs targets that differ: give another column" in message
    assert "target is always '3.5'" in (message := error_of(table))
    assert "`target=COLUMN`" in message


def test_numbers_as_classes_are_asked_about(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "a,target", [(i, i + 0.5) for i in range(20)])
    message = error_of(table)
    assert "20 classes (the smallest has 1) are too few to hold out 20% of them" in message
    assert "target is predicted: give `task=regression`, or give another column to predict (`target=COL" in message
    message = error_of(write(tmp_path / "t.csv", "a,who", [(i, f"name {i}") for i in range(20)]))
    assert "a name of each row" in message
    assert "regression" not in message
    table = write(tmp_path / "t.csv", "a,kind", [(i, f"rare{i}" if i < 9 else "usual") for i in range(10)])
    assert "10 classes" in error_of(table)


def test_the_only_row_of_a_class_is_trained_on(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "a,kind", [(i, "rare" if i == 3 else "usual") for i in range(20)])
    data = load(table)
    assert data.classes == ("rare", "usual")
    assert data.train.targets.tolist().count(0) == 1
    assert 0 not in [*data.val.targets.tolist(), *data.test.targets.tolist()]
