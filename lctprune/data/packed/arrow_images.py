"""Find the bytes of images in Arrow files; those of Parquet files, which are compressed, are first copied to one."""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from lctprune.data.packed.arrow_files import arrow, mapped, opened_arrow, opened_parquet, readable
from lctprune.data.packed.shards import Kind
from lctprune.data.packed_samples import Shard
from lctprune.errors import DataError, DataWarning, first_line
from lctprune.utils.cache import cache_folder, made_once
from lctprune.utils.wording import counted

ROWS = 64  # that are copied at a time
FOOTER = 2**16  # bytes at the end of a Parquet file, which say where everything is
SMALL_BYTES, MOST_UNPACKED = 2**26, 100  # what any copy may take, and how many times what a file says more


def image_shards(paths: Sequence[Path], kind: Kind, column: str) -> list[Shard]:
    """Return where the images of files are.

    Args:
        paths: Arrow or Parquet files.
        kind: which of them.
        column: column of the images: bytes, or a struct with a field `bytes`.

    Raises:
        DataError: a file cannot be read, a row has no image, or there is no room for the copies.

    Warns:
        DataWarning: copies are made.
    """
    found = [None if kind == "parquet" else _located(path, path, column) for path in paths]
    copies = {path: _copy_of(path, column) for path, shard in zip(paths, found, strict=True) if shard is None}
    new = [path for path, copy in copies.items() if not copy.is_file()]
    if new:
        _require_room(new, kind, copies[new[0]].parent, column)
    for path, copy in copies.items():
        _write_copy(path, kind, column, copy)
    shards = [shard or _located(path, copies[path], column) for path, shard in zip(paths, found, strict=True)]
    for path, shard in zip(paths, shards, strict=True):
        if shard is None:
            raise DataError(f"{copies[path]}, a copy of the images of {path}, cannot be used; remove it")
    return [shard for shard in shards if shard is not None]


def _located(path: Path, container: Path, column: str) -> Shard | None:
    """Find the images of an Arrow file; None where their bytes do not stand there as they are.

    Raises:
        DataError: a row has no image.
    """
    with readable(container):
        whole = mapped(container)
        offsets, sizes, row = [numpy.zeros(0, numpy.int64)], [numpy.zeros(0, numpy.int64)], 0
        for chunk in opened_arrow(whole).read_all().column(column).chunks:
            chunk.validate(full=True)
            content = _bytes_of(path, chunk, row)
            width = _width(content.type)
            if width is None:
                return None
            _, positions, values = content.buffers()
            ends = numpy.frombuffer(positions, width)[content.offset :][: len(content) + 1].astype(numpy.int64)
            start = values.address - whole.address if values is not None else 0
            if len(content) and not 0 <= start <= start + int(ends[-1]) <= whole.size:
                return None  # compressed, and now decompressed in memory
            offsets.append(start + ends[:-1])
            sizes.append(numpy.diff(ends))
            row += len(content)
    every = [torch.from_numpy(numpy.concatenate(each)) for each in (offsets, sizes)]
    if (every[1] == 0).any():
        raise DataError(f"{path}, row {int((every[1] == 0).nonzero()[0])}: an image of 0 bytes; restore or remove it")
    return Shard(path, str(container), every[0], every[1])


def _bytes_of(path: Path, chunk: Any, first: int) -> Any:
    """Return the images' bytes in a part of the column.

    Raises:
        DataError: a row has none.
    """
    content = chunk.field("bytes") if arrow().types.is_struct(chunk.type) else chunk
    for part in (chunk, content):
        if part.null_count:
            row = first + part.is_null().index(True).as_py()
            raise DataError(
                f"{path}, row {row} has no bytes of an image (a path alone is not followed); embed the images, or "
                "remove the row"
            )
    return content


def _width(kind: Any) -> Any:
    types = arrow().types
    if types.is_large_binary(kind):
        return numpy.int64
    return numpy.int32 if types.is_binary(kind) else None


def _copy_of(path: Path, column: str) -> Path:
    """Return the name of the copy of a file's images: by its size, age, and last bytes, wherever it lies."""
    with readable(path), path.open("rb") as file:
        status = os.fstat(file.fileno())
        file.seek(max(0, status.st_size - FOOTER))
        content = f"{status.st_size} {status.st_mtime_ns} {column}\n".encode() + file.read()
    return cache_folder() / "images" / f"{hashlib.sha256(content).hexdigest()[:32]}.arrow"


def _require_room(paths: Sequence[Path], kind: Kind, folder: Path, column: str) -> None:
    """Say that copies are made, unless there is no room for them.

    Raises:
        DataError: the disk has less room than the images take.
    """
    need = sum(_image_bytes(path, kind, column) for path in paths)
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if need > (free := shutil.disk_usage(place).free):
        raise DataError(
            f"the images of {paths[0]} and its siblings are copied once to {folder}, which takes {need / 2**20:,.0f} "
            f"MiB, and {free / 2**20:,.0f} MiB are free; make room, or name another folder by XDG_CACHE_HOME"
        )
    warnings.warn(
        f"the images of {counted(len(paths), 'file')} ({need / 2**20:,.0f} MiB) are copied to {folder}, once, so that "
        "each can be read alone",
        DataWarning,
        stacklevel=5,
    )


def _image_bytes(path: Path, kind: Kind, column: str) -> int:
    """Return the bytes that a column of a Parquet file takes when it is decompressed; the size of an Arrow file."""
    with readable(path):
        if kind != "parquet":
            return path.stat().st_size
        metadata = opened_parquet(path).metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        parts = [group.column(number) for group in groups for number in range(group.num_columns)]
        return sum(part.total_uncompressed_size for part in parts if f"{part.path_in_schema}.".startswith(f"{column}."))


def _write_copy(path: Path, kind: Kind, column: str, copy: Path) -> None:
    pyarrow = arrow()
    schema = pyarrow.schema([(column, pyarrow.large_binary())])

    def parts() -> Iterator[Any]:
        row, room = 0, SMALL_BYTES + MOST_UNPACKED * _image_bytes(path, kind, column)
        with readable(path):
            for batch in _batches(path, kind, column):
                content = _bytes_of(path, batch.column(column), row)
                row += len(content)
                room -= content.nbytes
                if room < 0:
                    raise DataError(f"{path} unpacks to over {MOST_UNPACKED} times its size; write it anew")
                yield pyarrow.record_batch([content.cast(pyarrow.large_binary())], schema=schema)

    def write(temporary: Path) -> None:
        with pyarrow.OSFile(str(temporary), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as out:
            for part in parts():
                out.write_batch(part)

    try:
        made_once(copy, write)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise DataError(f"{copy.parent} cannot be written ({reason}); name another by XDG_CACHE_HOME") from error


def _batches(path: Path, kind: Kind, column: str) -> Any:
    if kind == "parquet":
        return opened_parquet(path).iter_batches(ROWS, columns=[column])
    return (batch.select([column]) for batch in opened_arrow(mapped(path)).read_all().to_batches())
