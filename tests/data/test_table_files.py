"""Files of columns: separators, decimal commas, and whether the first line holds names or is a row."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

import lctprune as lct
from lctprune.data.tables.files import TableFile, read_table

DRAW = random.Random(0)
ROWS = [[f"{DRAW.gauss(5, 2):.1f}", f"{DRAW.gauss(3, 2):.1f}", f"{DRAW.gauss(4, 2):.1f}"] for _ in range(30)]
NAMED = [[*row, ("setosa", "virginica")[index % 2]] for index, row in enumerate(ROWS)]
WIDE = [[str(DRAW.randrange(256)) for _ in range(8)] for _ in range(30)]


def joined(rows: Sequence[Sequence[str]], separator: str = ",", end: str = "\n") -> str:
    return "".join(separator.join(row) + end for row in rows)


def read(folder: Path, content: str | bytes, **options: object) -> TableFile:
    path = folder / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, **options)  # type: ignore[arg-type]


def error_of(folder: Path, content: str | bytes) -> str:
    with pytest.raises(lct.DataError) as caught:
        read(folder, content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the first line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows", [ROWS, NAMED, WIDE, [["7", "M", *row] for row in ROWS], [["?", *row] for row in NAMED]]
)
def test_a_first_line_of_numbers_is_a_row(rows: list[list[str]], tmp_path: Path) -> None:
    with pytest.warns(lct.DataWarning, match=f"no line of names.*called 1 to {len(rows[0])}"):
        table = read(tmp_path, joined(rows))
    assert table.names == tuple(str(number) for number in range(1, len(rows[0]) + 1))
    assert table.rows == list(enumerate(rows, 1))


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        (["a", "b", "c", "kind"], NAMED),
        (["a", "b", "c"], ROWS),
        (["setosa", "b", "c", "kind"], NAMED),
        (["kind", "x"], [["setosa", "p"], ["virginica", "q"]] * 10),  # texts only, none of which occurs below
    ],
)
def test_a_first_line_without_numbers_holds_names(header: list[str], rows: list[list[str]], tmp_path: Path) -> None:
    table = read(tmp_path, joined([header, *rows]))
    assert table.names == tuple(header)
    assert table.rows == list(enumerate(rows, 2))


def test_a_table_of_texts_that_occur_again_has_no_names(tmp_path: Path) -> None:
    table = read(tmp_path, joined([["vhigh", "small", "acc"], ["low", "big", "unacc"]] * 10))
    assert not table.is_named
    assert len(table.rows) == 20


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        (["label", "0", "1"], ROWS),  # text above numbers
        (["2019", "2020", "total"], ROWS),
        (["0", "1", "2", "kind"], NAMED),  # 0, 1, 2 and a text that is no class
        (["kind", *map(str, range(8))], [["ab"[index % 2], *row] for index, row in enumerate(WIDE)]),
    ],
)
def test_names_that_are_numbers_are_said(header: list[str], rows: list[list[str]], tmp_path: Path) -> None:
    with pytest.warns(lct.DataWarning, match=r"first line of .* is taken for the names"):
        table = read(tmp_path, joined([header, *rows]))
    assert table.names == tuple(header)
    assert len(table.rows) == len(rows)


@pytest.mark.parametrize(
    "rows",
    [
        [["0", "1", "2"], *ROWS],
        [["2019", "2020", "2021"], *ROWS],
        [["1990", "1995"], *[row[:2] for row in ROWS]],
        [["400.2", "401.9", "404", "404.5", "407", "408", "411", "500"], *WIDE],  # wavelengths
        [["5.1", "3.5", "1.4", "rare"], *NAMED],  # a row whose class occurs once, or names
        [["5.1", "typo", "1.4"], *ROWS],
    ],
)
def test_a_first_line_that_may_be_either_is_refused(rows: list[list[str]], tmp_path: Path) -> None:
    message = error_of(tmp_path, joined(rows))
    assert "t.csv, line 1 (" in message
    assert ", ".join(rows[0][:2]) in message
    assert "may be a row or the names" in message


def test_rows_in_order_are_rows(tmp_path: Path) -> None:
    rows = [[str(start + step) for step in range(4)] for start in range(20)]
    with pytest.warns(lct.DataWarning, match="no line of names"):
        assert len(read(tmp_path, joined(rows)).rows) == 20


def test_a_run_reads_its_table_as_it_did_before(tmp_path: Path) -> None:
    content = joined(NAMED)
    old = read(tmp_path, content, known=NAMED[0][:3])  # as if the first line had been one of names
    assert len(old.rows) == len(NAMED) - 1
    assert len(read(tmp_path, content, known=["1", "2", "3"]).rows) == len(NAMED)


# --- separators and numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", ", "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_and_ends_of_lines(separator: str, end: str, tmp_path: Path) -> None:
    content = joined([["a", '"b, or; b"', "c", "kind"], *NAMED], separator, end)
    table = read(tmp_path, "\ufeff" + content + end + end)
    assert table.names == ("a", "b, or; b", "c", "kind")
    assert table.rows == list(enumerate(NAMED, 2))


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("columns", [2, 3])
def test_decimal_commas(separator: str, columns: int, tmp_path: Path) -> None:
    rows = [[*row[: columns - 1], row[-1]] for row in NAMED]
    commas = [[cell.replace(".", ",") for cell in row] for row in rows]
    names = ["a", "b", "kind"][-columns:]
    assert read(tmp_path, joined([names, *commas], separator)).rows == list(enumerate(rows, 2))


def test_commas_that_may_stand_between_thousands_are_refused(tmp_path: Path) -> None:
    rows = [["a", "kind"], *[[f"{index + 1},{200 + index}", "ab"[index % 2]] for index in range(20)]]
    message = error_of(tmp_path, joined(rows, ";"))
    assert "line 2: '1,200' may be 1.200 or 1200" in message
    table = read(tmp_path, joined([*rows, ["0,5", "a"]], ";"))  # now they cannot
    assert table.rows[0] == (2, ["1.200", "a"])


def test_points_and_commas_together_are_left(tmp_path: Path) -> None:
    rows = [["a", "b", "k"], *[["1,5", "1.5", "x"], ["2,5", "2.5", "y"]] * 8]
    assert read(tmp_path, joined(rows, ";")).rows[0] == (2, ["1,5", "1.5", "x"])


def test_cells_without_content_are_no_line(tmp_path: Path) -> None:
    table = read(tmp_path, joined([["a", "b", "c"], *ROWS[:5], ["", "", ""], *ROWS[5:], ["", " ", ""]]))
    assert [line for line, _ in table.rows] == [*range(2, 7), *range(8, 33)]


def test_a_table_may_be_wide(tmp_path: Path) -> None:
    wide = [[*row[:1] * 1400, row[-1]] for row in NAMED]
    wide[0] = [f"{number:0>100}" + "x" for number in range(1401)]  # longer than Python's reader takes a cell to be
    assert len(read(tmp_path, joined(wide)).names) == 1401


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no line of 2 columns or more"),
        ("a\n1\n2\n", "no line of 2 columns or more"),
        (joined(NAMED, " "), "no line of 2 columns or more"),
        (joined([["a", "b", "c"], *ROWS, ["1", "2"]]), "line 32 has 2 cells; line 1 has 3, separated by commas"),
        (joined([["My measurements"], ["a", "b", "c"], *ROWS]), "line 2 has 3 cells; line 1 has 1"),
        (joined([["a", "b", "a"], *ROWS]), "columns 1 and 3 have the same name, 'a'"),
        (joined([["a", " ", "c"], *ROWS]), "column 2 has no name"),
        (joined([[*row, ""] for row in NAMED]), "column 5, the last, is empty in every line; remove the comma"),
        (joined(["abc", *ROWS[:9]]) + '"1,2,3\n' + joined(ROWS[9:]), "line 11 has 1 cells"),  # a quote without an end
        (joined(NAMED).encode("utf-16"), "in UTF-16; save it as CSV in UTF-8"),
        (joined([*NAMED, ["1", "2", "3", "caf\u00e9"]]).encode("latin-1"), "line 31 is not UTF-8 (byte 0xe9)"),
        (b"PK\x03\x04\x00\x00", "no text file"),
        (joined([*NAMED, ["x" * 2**24, "2", "3", "d"]]), "line 31 has 16,777,223 characters; it may have 16,777,216"),
    ],
    ids=itertools.count(),
)
def test_a_file_that_cannot_be_used(content: str | bytes, words: str, tmp_path: Path) -> None:
    assert words in error_of(tmp_path, content)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(lct.DataError, match="cannot be read"):
        read_table(tmp_path / "nosuch.csv")
    with pytest.raises(lct.DataError, match="is a folder; it must be a regular file"):
        read_table(tmp_path)


@pytest.mark.parametrize("name", ["iris.data", "sonar.all-data", "t.tsv", "T.CSV"])
def test_tables_are_known_by_the_ends_of_their_names(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(joined(NAMED, "\t" if name == "t.tsv" else ","))
    with pytest.warns(lct.DataWarning, match="no line of names"):
        data = lct.load_data(lct.DataConfig(name=str(tmp_path / name)))
    assert data.columns == ("1", "2", "3")
    assert sum(len(split.targets) for split in (data.train, data.val, data.test)) == len(NAMED)
    with warnings.catch_warnings():
        assert len(lct.load_data(data.config, columns=data.columns).columns) == 3  # type: ignore[arg-type]


def test_a_folder_may_be_named_like_a_table(tmp_path: Path) -> None:
    (tmp_path / "photos.data").mkdir()
    assert not lct.DataConfig(name=str(tmp_path / "photos.data")).is_table
