"""Texts and tables in Parquet and Arrow files, which are read as those in text files; and data sets of the hub."""

from __future__ import annotations

import datetime
import decimal
import json
import warnings
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
import pytest
import torch
from packing import arrow_table, save_to_disk, write_parquet

import lctprune as lct
from lctprune.data.load import location, relocated
from lctprune.data.packed.shards import find_shards
from lctprune.data.tables.packed import packed_tables

WORDS = ("a good film", "a bad film", "good, good", "bad and long")


def load(path: Path | str, **options: Any) -> lct.Data:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lct.DataWarning)
        return lct.load_data(lct.DataConfig(name=str(path), **options))


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(lct.LctpruneError) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_equal(data: lct.Data, other: lct.Data) -> None:
    assert (data.classes, data.columns, data.vocabulary) == (other.classes, other.columns, other.vocabulary)
    assert (data.normalization, data.target_normalization) == (other.normalization, other.target_normalization)
    for name in ("train", "val", "test"):
        for own, that in zip(getattr(data, name).batches(1000), getattr(other, name).batches(1000), strict=True):
            assert all(map(torch.equal, own, that))


# --- tables ----------------------------------------------------------------------------------------------------------


def numbers(rows: int) -> Any:
    generator = numpy.random.default_rng(0)
    columns = {"a": generator.normal(size=rows), "b": generator.integers(0, 9, rows)}
    columns["c"] = numpy.rint(8 * columns["a"]).astype(numpy.float32) / 8
    return pyarrow.table({**columns, "kind": [("x", "y", "z")[row % 3] for row in range(rows)]})


@pytest.mark.parametrize("options", [{}, {"task": "regression", "target": "a"}, {"balance_classes": True}], ids=str)
@pytest.mark.parametrize("kind", ["file", "shards", "saved"])
def test_a_table_is_read_as_the_csv_file(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    table = numbers(60)
    if options.get("target"):
        table = table.drop_columns(["kind"])
    table.to_pandas().to_csv(tmp_path / "t.csv", index=False)
    path = tmp_path / ("t.parquet" if kind == "file" else "t")
    if kind == "file":
        pyarrow.parquet.write_table(table, path)
    elif kind == "saved":
        save_to_disk(path, table)
    else:
        write_parquet(path, "data", table)
    data = load(path, **options)
    assert_equal(data, load(tmp_path / "t.csv", **options))
    assert data.fingerprint == load(path, **options).fingerprint
    normalization = data.normalization
    known = lct.load_data(data.config or "", normalization=normalization, columns=data.columns)
    assert_equal(known, data)


def test_splits_of_a_table_are_those_of_the_files(tmp_path: Path) -> None:
    table = numbers(60)
    for split, part in (("train", table[:30]), ("validation", table[30:45]), ("test", table[45:])):
        write_parquet(tmp_path, split, part)
    data = load(tmp_path)
    assert [len(split.targets) for split in (data.train, data.val, data.test)] == [30, 15, 15]
    assert data.test.targets.tolist() == [0, 1, 2] * 5
    assert not data.val_from_train
    (tmp_path / "validation-00000-of-00002.parquet").unlink()
    (tmp_path / "validation-00001-of-00002.parquet").unlink()
    data = load(tmp_path, val_fraction=0.2)
    assert [len(split.targets) for split in (data.train, data.val, data.test)] == [24, 6, 15]
    assert data.val_from_train


def test_cells_are_written_as_in_a_text_file(tmp_path: Path) -> None:
    day = datetime.date(2024, 2, 29)
    columns = {
        "flag": [True, None],
        "count": pyarrow.array([3, 2**40]),
        "share": [0.1, float("nan")],
        "single": pyarrow.array([0.1, None], pyarrow.float32()),
        "money": [decimal.Decimal("1.50"), None],
        "day": [day, None],
        "time": pyarrow.array([1_700_000_000_123_456_789, None], pyarrow.timestamp("ns")),
        "text": ["a,b", None],
        "group": pyarrow.array(["u", "v"]).dictionary_encode(),
        "nothing": pyarrow.nulls(2),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    shards = find_shards(tmp_path / "t.parquet")
    assert shards is not None
    [table] = packed_tables(shards).values()
    assert table.names == tuple(columns)
    first, second = (dict(zip(columns, cells, strict=True)) for _, cells in table.rows)
    assert (first["flag"], first["count"], first["share"], first["money"]) == ("1", "3", "0.1", "1.50")
    assert float(first["single"]) == float(numpy.float32(0.1))
    assert (first["day"], first["time"][:10], first["text"], first["group"]) == ("2024-02-29", "2023-11-14", "a,b", "u")
    assert second == {name: {"count": str(2**40), "group": "v"}.get(name, "") for name in columns}


@pytest.mark.parametrize(
    ("column", "words"),
    [([[1]] * 20, ["list", "z"]), ([{"u": 1}] * 20, ["struct", "z"]), (pyarrow.array([1] * 20, "duration[s]"), ["z"])],
)
def test_cells_that_are_no_numbers_or_texts_are_refused(column: Any, words: list[str], tmp_path: Path) -> None:
    pyarrow.parquet.write_table(numbers(20).add_column(0, "z", pyarrow.array(column)), tmp_path / "t.parquet")
    text = refusal(tmp_path / "t.parquet")
    assert all(word in text for word in words), text


@pytest.mark.slow
def test_100_000_rows_of_a_table(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(numbers(100_000), tmp_path / "t.parquet")
    data = load(tmp_path / "t.parquet")
    assert [len(split.targets) for split in (data.train, data.val, data.test)] == [72_000, 8_000, 20_000]


# --- texts -----------------------------------------------------------------------------------------------------------


def texts(rows: int, **columns: Any) -> Any:
    return pyarrow.table({"text": [WORDS[row % 4] for row in range(rows)], **columns})


def test_texts_are_read_as_sentences(tmp_path: Path) -> None:
    labels = [("pos", "neg")[row % 2] for row in range(40)]
    for split, stop in (("train", 40), ("test", 12)):
        write_parquet(tmp_path / "packed", split, texts(40, label=labels)[:stop])
        lines = [f"{WORDS[row % 4]}\t{labels[row]}" for row in range(stop)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines))
    data = load(tmp_path / "packed")
    assert_equal(data, load(tmp_path))
    assert data.typical is not None
    assert data.tokenizer
    assert "no text" not in repr(data)
    (tmp_path / "packed" / "test-00000-of-00002.parquet").unlink()
    (tmp_path / "packed" / "test-00001-of-00002.parquet").unlink()
    drawn = load(tmp_path / "packed")
    assert [len(split.targets) for split in (drawn.train, drawn.val, drawn.test)] == [28, 4, 8]


def test_a_table_that_has_a_column_of_text_is_no_text(tmp_path: Path) -> None:
    labels = pyarrow.array([0, 1] * 20)
    pyarrow.parquet.write_table(texts(40, price=pyarrow.array(range(40)), label=labels), tmp_path / "t.parquet")
    pyarrow.parquet.write_table(texts(40, idx=pyarrow.array(range(40)), label=labels), tmp_path / "u.parquet")
    with pytest.MonkeyPatch.context():
        shards = find_shards(tmp_path / "t.parquet")
    assert shards is not None
    assert packed_tables(shards)["train"].names == ("text", "price", "label")
    assert load(tmp_path / "u.parquet").vocabulary


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"label": [0, 1] * 20, "text": ["a b", None] * 20}, {}, ["row 1", "text"]),
        ({"label": [0, 1] * 20, "mean": ["x"] * 40}, {"mean": (0.5,), "std": (0.5,)}, ["`mean`"]),
        ({"label": [0] * 40}, {}, ["1 class"]),
        ({"label": [0, 1] * 19 + [None] * 2}, {}, ["sample 38"]),
    ],
)
def test_texts_that_cannot_be_used_are_refused(
    columns: dict[str, Any], options: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    table = pyarrow.table({**texts(40).to_pydict(), **columns})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    text = refusal(tmp_path / "t.parquet", **options)
    assert all(word in text for word in words), text


# --- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the hub, without a network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(hub: Path, name: str, revision: str = "main") -> Path:
    """Return the folder of a data set in the cache, as the hub's own library lays it out."""
    root = hub / f"datasets--{name.replace('/', '--')}"
    commit = f"{abs(hash(revision)):040x}"[:40]
    (root / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
    (root / "refs" / revision).write_text(commit)
    folder = root / "snapshots" / commit
    folder.mkdir(parents=True)
    return folder


def test_a_data_set_of_the_hub_that_was_fetched_is_read_without_a_network(hub: Path, tmp_path: Path) -> None:
    folder = cached(hub, "owner/films")
    table = texts(40, label=["pos", "neg"] * 20)
    write_parquet(folder / "data", "train", table)
    write_parquet(folder / "data", "test", table)
    data = load("hf:owner/films")
    write_parquet(tmp_path / "films", "train", table)
    write_parquet(tmp_path / "films", "test", table)
    assert_equal(data, load(tmp_path / "films"))
    config = data.config or lct.DataConfig()
    assert (config.name, location(config)) == ("hf:owner/films", None)
    assert relocated(config, tmp_path / "films").name == str(tmp_path / "films")
    assert relocated(config, "hf:other/films").name == "hf:other/films"


def test_parts_of_a_data_set_and_the_conversion_of_the_hub(hub: Path) -> None:
    cached(hub, "owner/films").joinpath("films.py").write_text("raise SystemExit('executed')")
    folder = cached(hub, "owner/films", "refs/convert/parquet")
    for part in ("long", "short"):
        for split in ("train", "test"):
            (folder / part / split).mkdir(parents=True)
            table = texts(40, label=[f"{part} {row % 2}" for row in range(40)])
            pyarrow.parquet.write_table(table, folder / part / split / "0000.parquet")
    assert load("hf:owner/films:short").classes == ("short 0", "short 1")
    text = refusal("hf:owner/films")
    assert "2 parts (long, short)" in text
    assert "hf:owner/films:long" in text
    assert "no part 'none'" in refusal("hf:owner/films:none")
    (folder / "long" / "train").rename(folder / "long" / "partial-train")
    assert "in part only" in refusal("hf:owner/films:long")


@pytest.mark.parametrize("name", ["hf:owner/none", "hf:none", "hf:owner/none@v1"])
def test_without_a_network_a_name_is_refused_in_one_line(name: str, hub: Path) -> None:
    assert "cannot be fetched" in refusal(name)


@pytest.mark.parametrize("name", ["hf:", "hf:a/b/c", "hf:../x", "hf:a b"])
def test_a_name_of_another_form_is_refused(name: str) -> None:
    assert "OWNER/NAME" in refusal(name)


def test_features_that_are_damaged_are_as_none(tmp_path: Path) -> None:
    for features in ("", "[", "[]", json.dumps({"info": {"features": {"label": 3, "image": {"_type": []}}}})):
        table = arrow_table([("x", b"x", 0)]).replace_schema_metadata({"huggingface": features})
        pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
        assert "1 class (0)" in refusal(tmp_path / "x.parquet")


def test_texts_and_gaps_of_a_table_are_encoded_as_those_of_the_csv_file(tmp_path: Path) -> None:
    table = numbers(60).append_column("city", pyarrow.array([("u", "v", None)[row % 3] for row in range(60)]))
    table.to_pandas().to_csv(tmp_path / "t.csv", index=False)
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    data = load(tmp_path / "t.parquet", target="kind")
    assert data.encoding is not None
    assert_equal(data, load(tmp_path / "t.csv", target="kind"))
