"""Pack folders of images into the files of other tools, so that a test can compare what is read of either."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
from PIL import Image

Sample = tuple[str, bytes, int]  # name, bytes of an image, number of its class


def make_images(root: Path, sizes: Mapping[str, Sequence[int]], side: int = 8) -> None:
    """Write an image folder: for each split the number of images of classes a, b, ..., PNG and JPEG in turn."""
    generator = numpy.random.default_rng(0)
    for split, counts in sizes.items():
        for label, count in enumerate(counts):
            folder = root / split / "abcdef"[label]
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (side, side + index % 3, 3), dtype=numpy.uint8)
                Image.fromarray(pixels).save(folder / f"{index:03}.{('png', 'jpg')[index % 2]}")


def samples_in(folder: Path) -> list[Sample]:
    """Return the samples of a split's folder in the order of an image folder."""
    classes = sorted(folder.parent.joinpath("train").iterdir())
    labels = {each.name: number for number, each in enumerate(classes)}
    files = sorted(folder.glob("*/*"))
    return [(f"{file.parent.name}-{file.stem}", file.read_bytes(), labels[file.parent.name]) for file in files]


def arrow_table(samples: Iterable[Sample], classes: Sequence[str] = ("a", "b")) -> Any:
    """Return a table as Hugging Face's `datasets` makes it of images and labels."""
    names, contents, labels = zip(*samples, strict=True)
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = [{"bytes": content, "path": f"{name}.png"} for name, content in zip(names, contents, strict=True)]
    features = {"image": {"_type": "Image"}, "label": {"names": [*classes], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pyarrow.schema([("image", kind), ("label", pyarrow.int64())], metadata=metadata)
    return pyarrow.table({"image": images, "label": list(labels)}, schema=schema)


def write_parquet(root: Path, split: str, table: Any, shards: int = 2) -> None:
    root.mkdir(exist_ok=True)
    size = -(-len(table) // shards)
    for number in range(shards):
        path = root / f"{split}-{number:05}-of-{shards:05}.parquet"
        pyarrow.parquet.write_table(table.slice(number * size, size), path, row_group_size=3)


def save_to_disk(folder: Path, table: Any) -> None:
    """Write a table as `datasets.Dataset.save_to_disk` does."""
    folder.mkdir(parents=True)
    name = "data-00000-of-00001.arrow"
    with pyarrow.OSFile(str(folder / name), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table, max_chunksize=5)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def tar_members(samples: Iterable[Sample], classes: Sequence[str] = ("a", "b")) -> list[tuple[str, bytes]]:
    """Return the members of a WebDataset: an image and the name of its class, in .cls and .json in turn."""
    members = []
    for number, (name, content, label) in enumerate(samples):
        members.append((f"{name}.{'png' if content[:4] == bytes([137]) + b'PNG' else 'jpg'}", content))
        text = json.dumps({"label": classes[label], "width": 8}) if number % 2 else classes[label]
        members.append((f"{name}.{'json' if number % 2 else 'cls'}", text.encode()))
    return members


def packed(kind: str, images: Path, out: Path) -> Path:
    """Pack the splits of an image folder: parquet, saved (to disk), or tar."""
    splits = [folder.name for folder in images.iterdir()]
    for split in splits:
        samples = samples_in(images / split)
        table = arrow_table(samples)
        if kind == "parquet":
            write_parquet(out, {"val": "validation"}.get(split, split), table)
        elif kind == "saved":
            save_to_disk(out / split, table)
        else:
            members = tar_members(samples)
            half = len(members) // 4 * 2
            write_tar(out / f"pictures-{split}-000000.tar", members[:half])
            write_tar(out / f"pictures-{split}-000001.tar", members[half:])
    if kind == "saved":
        (out / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    return out
