"""The index of a tar file: what it gives is what the file gives, and it is used for as long as the file stays."""

from __future__ import annotations

import os
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from packing import write_tar
from safetensors import safe_open
from safetensors.torch import save_file

from lctprune.data.packed.tar_shards import TarShard, read_tar

OLD = 1_000_000_000  # seconds since 1970
MEMBERS = [
    ("readme.txt", b"x"),
    *(
        member
        for number in range(120)
        for member in (
            (f"ü\n{number}.jpg", bytes([number]) * (1 + number % 5)),
            (f"ü\n{number}.json", b'{"label": %s, "kind": "k%d"}' % ((b"7", b'"b"', b"null")[number % 3], number % 2)),
        )
    ),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    write_tar(tmp_path / "x.tar", MEMBERS)
    os.utime(tmp_path / "x.tar", (OLD, OLD))
    return tmp_path / "x.tar"


def read(path: Path, target: str | None = None) -> tuple[object, ...]:
    """Return all that is known of a tar file, and the notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found: TarShard = read_tar(path, target)
    shard = found.shard
    return (
        shard.names,
        shard.offsets.tolist(),
        shard.sizes.tolist(),
        [*found.labels],
        [str(each.message) for each in caught],
    )


def index_of(cache: Path) -> Path:
    [path] = cache.rglob("*.safetensors")
    return path


def relabelled(path: Path) -> None:
    """Change the labels in an index, so that what is read of it can be told."""
    with safe_open(path, "pt") as found:
        notes, tensors = found.metadata(), {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
    save_file(tensors, path, notes | {"labels": '["index", "index", "index"]'})


def test_an_index_gives_what_the_file_gives(tar: Path, cache: Path) -> None:
    first = read(tar)
    assert first[3][:3] == [7, "b", None]  # type: ignore[index]
    assert "1 member" in str(first[4])
    assert "readme.txt" in str(first[4])
    assert read(tar) == first
    relabelled(index_of(cache))
    assert set(read(tar)[3]) == {"index"}  # type: ignore[call-overload]
    assert read(tar, "kind")[3][:2] == ["k0", "k1"]  # type: ignore[index]


def grown(tar: Path, cache: Path) -> None:
    write_tar(tar, [*MEMBERS, ("z.jpg", b"x"), ("z.cls", b"1")])


def touched(tar: Path, cache: Path) -> None:
    os.utime(tar, (OLD + 1, OLD + 1))


def rewritten(tar: Path, cache: Path) -> None:
    content = bytearray(tar.read_bytes())
    time.sleep(0.02)  # longer than a tick of the file system's clock
    tar.write_bytes(content)
    os.utime(tar, (OLD, OLD))  # size and time of change as before


def cut_off(tar: Path, cache: Path) -> None:
    index = index_of(cache)
    index.write_bytes(index.read_bytes()[:-100])


def uneven(tar: Path, cache: Path) -> None:
    with safe_open(index_of(cache), "pt") as found:
        notes, tensors = found.metadata(), {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
    save_file(tensors | {"offsets": tensors["offsets"] + 2**40}, index_of(cache), notes)


def in_the_way(tar: Path, cache: Path) -> None:
    index_of(cache).unlink()
    (cache / "lctprune" / "tar").rmdir()
    (cache / "lctprune" / "tar").write_bytes(b"")


@pytest.mark.parametrize("change", [grown, touched, rewritten, cut_off, uneven, in_the_way])
def test_an_index_of_another_state_is_not_used(tar: Path, cache: Path, change: Callable[[Path, Path], None]) -> None:
    read(tar)
    relabelled(index_of(cache))
    change(tar, cache)
    labels = read(tar)[3]
    assert labels[:3] == [7, "b", None]  # type: ignore[index]
    assert read(tar)[3] == labels


def test_neither_a_small_file_nor_one_that_may_change_unseen_gets_an_index(tar: Path, cache: Path) -> None:
    os.utime(tar)
    read(tar)
    write_tar(small := tar.with_name("small.tar"), MEMBERS[:21])
    os.utime(small, (OLD, OLD))
    read(small)
    assert not [*cache.rglob("*.safetensors")]


@pytest.mark.slow
def test_100_000_members_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    write_tar(path, (each for n in range(50_000) for each in ((f"{n:06}.jpg", b"x" * 300), (f"{n:06}.cls", b"%d" % n))))
    os.utime(path, (OLD, OLD))
    seconds, found = [], []
    for _ in range(2):
        start = time.process_time()
        found.append(read(path))
        seconds.append(time.process_time() - start)
    assert found[0] == found[1]
    assert seconds[1] < seconds[0] / 5
    tracemalloc.start()
    shard = read_tar(path).shard
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150 * 2 * len(shard.names)
    assert torch.equal(shard.sizes, torch.full((50_000,), 300))
