"""What the samples of Parquet and Arrow files are: images or texts with labels, or rows of a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from lctprune.data.images.label_table import LABELS, PATHS, column_key
from lctprune.data.images.listing import some
from lctprune.data.packed.arrow_files import Features, arrow, read_columns, read_schema, readable
from lctprune.data.packed.labels import Labels
from lctprune.data.packed.shards import Shards
from lctprune.errors import DataError
from lctprune.utils.names import visible

TEXTS = ("text", "sentence", "sentences", "content", "review", "document", "comment", "tweet", "question", "title")
INDEX = "__index_level_"  # in the names of columns that pandas adds
_NO_INPUTS = (*LABELS, "id", "idx", "index")


class PackedKind(NamedTuple):
    """What samples are.

    Attributes:
        kind: images, texts, or rows of a table.
        column: column of the images or texts; empty for a table.
        label: column of the labels; empty for a table.
        classes: names of the classes by their numbers, where the files tell them.
    """

    kind: Literal["images", "texts", "table"]
    column: str = ""
    label: str = ""
    classes: tuple[str, ...] = ()


def packed_kind(shards: Shards, target: str | None, task: str = "classification") -> PackedKind:
    """Find out by the columns what the samples of Parquet or Arrow files are.

    Args:
        shards: the files.
        target: column of the labels that the user gave.
        task: classification, or regression, which is of tables.

    Raises:
        DataError: a file cannot be read, or it is not clear which column is which.
    """
    first = shards.first
    features = read_schema(first, shards.kind)
    if target is not None and target not in features.columns:
        raise DataError(f"{first} has no column {target!r}; it has {some(map(visible, features.columns), 8)}")
    images = _images(features, target)
    texts = [] if images or task == "regression" else _texts(features, target)
    if not images and not texts:
        return PackedKind("table")
    if len(images or texts) > 1:
        what, shown = ("images" if images else "text"), some(map(visible, images or texts))
        raise DataError(f"{first} has several columns of {what} ({shown}); keep one, or call it image or text")
    [column] = images or texts
    label = _label(str(first), features, target, column)
    return PackedKind("images" if images else "texts", column, label, features.classes.get(label, ()))


def read_labels(shards: Shards, found: PackedKind) -> dict[str, Labels]:
    """Read the labels of each split.

    Raises:
        DataError: a file cannot be read, or has other classes than the first; or labels are neither names nor whole
            numbers.
    """
    labels, column = {}, found.label
    for split, paths in shards.splits.items():
        for path in paths:
            if read_schema(path, shards.kind).classes.get(column, ()) != found.classes:
                raise DataError(f"{path} names other classes of {column} than {shards.first}; write both anew, alike")
        parts = [_values(path, read_columns(path, shards.kind, [column]).column(column), column) for path in paths]
        if not (values := [value for part in parts for value in part]):
            raise DataError(f"{shards.root} has no rows of {split}; add some, or remove its files")
        labels[split] = Labels.of(values)
    return labels


def read_texts(shards: Shards, split: str, column: str) -> list[str]:
    """Read the texts of a split.

    Raises:
        DataError: a file cannot be read, or a row has no text.
    """
    texts: list[str] = []
    for path in shards.splits[split]:
        with readable(path):
            values = read_columns(path, shards.kind, [column]).column(column)
            if not _is_text(_value_type(values)):
                raise DataError(f"{path}: {visible(column)} holds values of type {values.type}; it must be text")
            found = values.to_pylist()
        if None in found:
            raise DataError(f"{path}, row {found.index(None)}: {column} is empty; fill it in or remove the row")
        texts += found
    return texts


def _values(path: Any, column: Any, name: str) -> list[Any]:
    types = arrow().types
    with readable(path):
        values: list[Any] = column.to_pylist()
    kind = _value_type(column)
    if types.is_boolean(kind):
        return [None if value is None else str(value).lower() for value in values]
    if types.is_floating(kind) and all(value is None or value == value // 1 for value in values):
        return [None if value is None else int(value) for value in values]  # pandas' whole numbers beside gaps
    if not (types.is_integer(kind) or _is_text(kind)):
        raise DataError(f"{path}: {name} holds values of type {kind}; labels are names, or whole numbers, of classes")
    return values


def _value_type(column: Any) -> Any:
    return column.type.value_type if arrow().types.is_dictionary(column.type) else column.type


def _is_text(kind: Any) -> bool:
    types = arrow().types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _images(features: Features, target: str | None) -> list[str]:
    """Return the columns of images: by the file's description, or else structs with bytes, or bytes."""
    found = [*features.images] or [name for name, kind in features.columns.items() if _holds_bytes(kind)]
    return _preferred([name for name in found if name != target], PATHS)


def _holds_bytes(kind: Any) -> bool:
    types = arrow().types
    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _texts(features: Features, target: str | None) -> list[str]:
    """Return the columns of texts: those called so, or the only one of text beside the label."""
    texts = [name for name, kind in features.columns.items() if _is_text(kind) and name != target]
    inputs = [
        name
        for name in features.columns
        if name not in (target, *features.classes) and column_key(name) not in _NO_INPUTS and INDEX not in name
    ]
    named = [name for name in texts if column_key(name) in TEXTS]
    if named and (features.classes or {*inputs} <= {*texts}):
        return _preferred(named, TEXTS)
    return texts if inputs == (texts := [name for name in texts if name in inputs]) and len(texts) == 1 else []


def _preferred(names: list[str], known: Iterable[str]) -> list[str]:
    """Return the name that comes first among usual ones; all of them if none is usual."""
    keys = {column_key(name): name for name in reversed(names)}
    return next(([keys[each]] for each in known if each in keys), names)


def _label(path: str, features: Features, target: str | None, column: str) -> str:
    if target is not None:
        return target
    names = [name for name in features.columns if name != column]
    found = [name for name in names if name in features.classes]
    usual = [name for name in found or names if column_key(name) in LABELS]
    chosen = found if len(found) == 1 else usual
    if len(chosen) != 1:
        what = (
            f"several columns of labels ({some(map(visible, chosen or found))})"
            if chosen or found
            else "no column of labels"
        )
        raise DataError(
            f"{path} has {what} among {some(map(visible, names), 8) or 'none'}; say which it is: `target=COLUMN`"
        )
    return chosen[0]
