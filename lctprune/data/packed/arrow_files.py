"""Read Parquet and Arrow files by pyarrow: their columns, and what Hugging Face's features say of them.

pyarrow never executes a pickle (of the versions that are required here), and neither do these functions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lctprune.data.packed.shards import Kind
from lctprune.errors import ConfigError, DataError, LctpruneError, first_line
from lctprune.utils.environment import memory_bytes
from lctprune.utils.files import require_regular
from lctprune.utils.names import visible

CELL_BYTES = 64  # of memory that a value takes, about


class Features(NamedTuple):
    """What the schema of a file says of its columns.

    Attributes:
        columns: types of the columns, by name.
        images: columns that are images by the file's description.
        classes: names of the classes of columns of labels.
    """

    columns: dict[str, Any]
    images: tuple[str, ...]
    classes: dict[str, tuple[str, ...]]


def arrow() -> Any:
    """Import pyarrow.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow  # slow to import, and an extra
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "Parquet and Arrow files are read by pyarrow, which is not installed: pip install 'lctprune[parquet]'"
        ) from error
    return pyarrow


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say in one line that a file cannot be read, whatever pyarrow finds wrong inside the block.

    Raises:
        DataError: the block raised an error of reading.
    """
    pyarrow = arrow()
    try:
        require_regular(path, DataError)
        yield
    except LctpruneError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"{path} cannot be read ({first_line(error)}); fetch it again, or write it anew") from error


def read_schema(path: Path, kind: Kind) -> Features:
    """Read the columns of a file.

    Raises:
        DataError: the file cannot be read.
    """
    with readable(path):
        schema = opened_parquet(path).schema_arrow if kind == "parquet" else opened_arrow(mapped(path)).schema
        names = [field.name for field in schema]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path} has several columns called {twice[0]!r}; rename all but one")
    described = _described(schema.metadata or {})
    kinds = {name: each.get("_type") for name, each in described.items() if isinstance(each, dict)}
    classes = {}
    for name, each_kind in kinds.items():
        given = described[name].get("names") if each_kind == "ClassLabel" else None
        if name in names and isinstance(given, list) and all(isinstance(text, str) for text in given):
            classes[name] = tuple(given)
            if len({*given}) < len(given):
                raise DataError(f"{path}: two classes of {name} have the same name; rename one")
    images = tuple(name for name in names if kinds.get(name) == "Image")
    return Features({field.name: field.type for field in schema}, images, classes)


def read_columns(path: Path, kind: Kind, columns: Sequence[str]) -> Any:
    """Read columns of a file as a pyarrow table; those of an Arrow file stay on the disk until they are used.

    Raises:
        DataError: the file cannot be read.
    """
    with readable(path):
        if kind == "parquet":
            file = opened_parquet(path)
            _require_memory(path, file.metadata.num_rows, len(columns))
            names = file.schema_arrow.names
            if missing := [name for name in columns if name not in names]:  # which pyarrow leaves out
                raise DataError(f"{path} has no column {visible(missing[0])}, which other files have; add it")
            return file.read(columns=[*columns])
        table = opened_arrow(mapped(path)).read_all().select([*columns])
        _require_memory(path, table.num_rows, len(columns))
        table.validate(full=True)
        return table


def _require_memory(path: Path, rows: int, columns: int) -> None:
    """Refuse what is too large to become Python's values; a small file may hold a value billions of times.

    Raises:
        DataError: the values take more memory than this machine has.
    """
    need, has = rows * columns * CELL_BYTES, memory_bytes()
    if need > has:
        raise DataError(
            f"{path} has {rows:,} rows, which take about {need / 2**30:,.0f} GiB of memory, and this machine has "
            f"{has / 2**30:,.0f}; give fewer"
        )


def opened_parquet(path: Path) -> Any:
    """Open a Parquet file, of which a part is held in memory at a time."""
    return arrow().parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20)


def mapped(path: Path) -> Any:
    """Map a file into memory, as a buffer."""
    return arrow().memory_map(str(path)).read_buffer()


def opened_arrow(content: Any) -> Any:
    """Open the content of an Arrow file, a stream or one with a footer, as an iterable of batches."""
    pyarrow = arrow()
    is_file = content[:6].to_pybytes() == b"ARROW1"
    return (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(content)


def _described(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """Return the features that Hugging Face's `datasets` wrote; none where others wrote the file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}
