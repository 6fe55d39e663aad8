"""Keep what was found in a tar file, so that the next command need not read the headers of its members again.

An index lies in the cache folder, one for each path, and holds for as long as the file's size and times stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lctprune import __version__
from lctprune.data.packed.labels import Labels, Value
from lctprune.utils.cache import cache_folder
from lctprune.utils.files import write_atomically

LEAST = 100  # samples in a file worth an index
SETTLED_S = 2.0  # age of a file from which a change shows in its times, which some file systems round to this


class TarContent(NamedTuple):
    """What a tar file holds.

    Attributes:
        names: name of each image, for messages.
        offsets: first byte of each, int64 [n].
        sizes: bytes of each, int64 [n].
        labels: label of each.
        left_out: number of members that are left out, and the name of the first.
    """

    names: tuple[str, ...]
    offsets: Tensor
    sizes: Tensor
    labels: Sequence[Value]
    left_out: tuple[int, str]


class TarIndex:
    """The index of one tar file, there or not.

    Args:
        path: tar file.
        file: that file, open.
        target: key of the labels, on which the content depends.
    """

    def __init__(self, path: Path, file: IO[bytes], target: str | None) -> None:
        status = os.fstat(file.fileno())
        place = f"{path.absolute()}\n{target}".encode(errors="surrogateescape")
        times = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        self._state = json.dumps([__version__, *times])
        self._size, self._is_settled = status.st_size, time.time() - status.st_mtime > SETTLED_S
        self._name = f"{hashlib.sha256(place).hexdigest()[:32]}.safetensors"

    @property
    def _path(self) -> Path:
        return cache_folder() / "tar" / self._name

    def read(self) -> TarContent | None:
        """Return what the tar file holds; None if it has no index, or one of another state."""
        try:
            with safe_open(self._path, "pt") as found:
                notes = found.metadata() or {}
                if notes.get("state") != self._state:
                    return None
                names, codes, offsets, sizes = map(found.get_tensor, ("names", "codes", "offsets", "sizes"))
            values, left_out = json.loads(notes["labels"]), json.loads(notes["left_out"])
            labels = [values[code] for code in codes.tolist()]
            content = TarContent(_split(names), offsets, sizes, labels, (left_out[0], left_out[1]))
        except (OSError, RuntimeError, SafetensorError, ValueError, KeyError, IndexError, TypeError):
            return None  # damaged, so it is written anew; or there is no home folder
        return content if self._fits(content) else None

    def write(self, content: TarContent) -> None:
        """Write the index, if it is worth one and the cache folder can be written to."""
        if len(content.names) < LEAST or not self._is_settled:
            return
        labels = Labels.of(content.labels)
        tensors = {
            "names": torch.frombuffer(bytearray("\n".join(content.names).encode()), dtype=torch.uint8),
            "codes": labels.codes,
            "offsets": content.offsets,
            "sizes": content.sizes,
        }
        notes = {
            "state": self._state,
            "labels": json.dumps(labels.values),
            "left_out": json.dumps(content.left_out),
        }
        with suppress(OSError, RuntimeError):  # without an index the next command reads the headers again
            write_atomically(self._path, save(tensors, notes))

    def _fits(self, content: TarContent) -> bool:
        """Tell whether an index can be one of this file."""
        names, offsets, sizes, labels, _ = content
        is_even = len(names) == len(labels) == len(offsets) == len(sizes) > 0 and offsets.shape == sizes.shape
        return is_even and bool(((offsets >= 0) & (sizes > 0) & (offsets + sizes <= self._size)).all())


def _split(names: Tensor) -> tuple[str, ...]:
    return tuple(names.numpy().tobytes().decode().split("\n"))
