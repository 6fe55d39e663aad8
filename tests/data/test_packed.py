"""Images in Parquet, Arrow and tar files: what an image folder of the same images gives, and files that are damaged."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import shutil
import tarfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
import pytest
import torch
from equality import same
from packing import (
    arrow_table,
    make_images,
    packed,
    samples_in,
    save_to_disk,
    tar_members,
    write_parquet,
    write_tar,
)

import lctprune as lct
from lctprune.data.images.files import FolderSplit
from lctprune.data.load import location, relocated
from lctprune.data.packed import arrow_images
from lctprune.data.packed.kinds import packed_kind
from lctprune.data.packed.listing import list_arrow
from lctprune.data.packed.shards import find_shards

KINDS = ["parquet", "saved", "tar"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of uneven classes, with a test split."""
    root = tmp_path_factory.mktemp("images")
    make_images(root, {"train": (16, 8), "test": (4, 4)})
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(path: Path | str, **options: Any) -> tuple[lct.Data, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = lct.load_data(lct.DataConfig(name=str(path), **options))
    return data, [str(each.message) for each in caught]


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(lct.LctpruneError) as caught:
        batches(load(path, **options)[0])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def batches(data: lct.Data) -> list[torch.Tensor]:
    """Return all that a training and its evaluation read: two passes over train, one over each split."""
    passes = [data.train.shuffled(5, seed=seed) for seed in (0, 1)] + [
        split.batches(7) for split in (data.train, data.val, data.test)
    ]
    return [part for each in passes for batch in each for part in batch]


# --- equal to an image folder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"image_size": 100, "workers": 0}], ids=["in memory", "streamed"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_images_are_read_as_those_of_a_folder(
    kind: str, options: dict[str, Any], images: Path, tmp_path: Path
) -> None:
    folder, _ = load(images, balance_classes=True, **options)
    data, _ = load(packed(kind, images, tmp_path / "packed"), balance_classes=True, **options)
    assert isinstance(data.train, FolderSplit) == bool(options)
    assert (data.classes, data.val_from_train) == (("a", "b"), True)
    for own, other in zip(batches(data), batches(folder), strict=True):
        assert torch.equal(own, other)
    counts = torch.cat([targets for _, targets in data.train.shuffled(1, seed=0)]).bincount()
    assert counts.diff().abs() <= 1  # of 14 and 7 samples


def test_workers_change_nothing(images: Path, tmp_path: Path) -> None:
    root = packed("parquet", images, tmp_path / "packed")
    alone, beside = (load(root, image_size=100, workers=workers)[0] for workers in (0, 2))
    for own, other in zip(batches(alone), batches(beside), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_splits_is_divided_as_a_folder_of_classes(kind: str, images: Path, tmp_path: Path) -> None:
    folder, _ = load(images / "train")
    (tmp_path / "packed").mkdir()
    samples = samples_in(images / "train")
    path = tmp_path / "packed" / {"parquet": "photos.parquet", "saved": "saved", "tar": "photos.TAR"}[kind]
    if kind == "parquet":
        pyarrow.parquet.write_table(arrow_table(samples), path)
    elif kind == "saved":
        save_to_disk(path, arrow_table(samples))
    else:
        write_tar(path, tar_members(samples))
    data, notes = load(path)
    assert any("has no splits" in note for note in notes)
    for own, other in zip(batches(data), batches(folder), strict=True):
        assert torch.equal(own, other)
    assert location(lct.DataConfig(name=str(path))) == path
    moved = tmp_path / "moved"
    shutil.move(path.parent, moved)
    config = relocated(data.config or lct.DataConfig(), moved / path.name if kind == "saved" else moved)
    assert load(config.name)[0].fingerprint == data.fingerprint


@pytest.mark.slow
def test_a_run_resumes_to_the_bit_with_another_number_of_workers(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lctprune.data.images.folder.SMALL_IMAGE", 7)  # pixels: those of 8 are streamed
    root = packed("parquet", images, tmp_path / "packed")
    config = lct.TrainConfig(epochs=2, batch_size=8)
    data, beside = (load(root, workers=workers)[0] for workers in (0, 2))
    recipe = lct.NetworkConfig(model="vgg-lct", model_args={"width": 2}, groups=2, critic="pooled", num_outputs=2)

    def network() -> lct.LocalCriticNetwork:
        torch.manual_seed(0)
        return lct.build_network(dataclasses.replace(recipe, image_size=8))

    whole = lct.train(network(), data, config, run_dir=tmp_path / "whole")
    parts = lct.open_run(network(), data, config, run_dir=tmp_path / "parts")
    for progress in lct.train_steps(network(), data, parts):
        if progress.epoch == 1 and progress.val_loss is not None:
            break
    lct.train(network(), beside, config, run_dir=tmp_path / "parts", resume=True)
    assert same(parts.load_checkpoint().network, whole.load_checkpoint().network)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_commands_on_a_run_read_the_data_where_it_is(
    kind: str, images: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    options = "--model-args width=2 --groups 2 --critic pooled --batch-size 8 --threads 1 --epochs 1".split()
    root, run = packed(kind, images, tmp_path / "packed"), tmp_path / "run"
    trained = cli("train", "vgg-lct", "--data", root, "--out", run, *options)
    assert trained.code == 0, trained.err
    assert json.loads((run / "config.json").read_text())["data"]["config"]["name"] == str(root)
    moved = shutil.move(root, tmp_path / "moved")
    assert f"not in {root}" in cli("evaluate", run).err
    result = cli("select", run, "--budget-flops", "100%", "--data", moved)
    assert result.code == 0, result.err
    path = sorted(moved.iterdir())[-1]
    path.rename(path.with_name(f"{path.name.replace('0000', '0001')}"))
    assert cli("evaluate", run, "--data", moved).code == 1


# --- what is refused or left out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_image_is_named(kind: str, images: Path, tmp_path: Path) -> None:
    samples = samples_in(images / "train")
    samples[3] = (samples[3][0], b"no image at all", 0)
    root = tmp_path / "packed"
    if kind == "parquet":
        write_parquet(root, "train", arrow_table(samples))
        where = "train-00000-of-00002.parquet, row 3"
    elif kind == "saved":
        save_to_disk(root, arrow_table(samples))
        where = "data-00000-of-00001.arrow, row 3"
    else:
        write_tar(root / "train-0.tar", tar_members(samples))
        where = f"train-0.tar: {samples[3][0]}"
    assert f"{where}" in (text := refusal(root))
    assert "cannot be read as an image" in text


@pytest.mark.parametrize("kind", ["parquet", "arrow", "tar"])
def test_a_file_that_is_cut_off_is_named(kind: str, images: Path, tmp_path: Path) -> None:
    samples = samples_in(images / "train")
    root = packed({"arrow": "saved"}.get(kind, kind), images, tmp_path / "packed")
    path = sorted(root.rglob(f"*train*/*.{kind}") if kind == "arrow" else root.rglob(f"*train*.{kind}"))[-1]
    content = path.read_bytes()
    ends = {0, 3, 512, len(content) // 3, len(content) // 2, len(content) - 600}
    if kind == "tar":  # which ends in zeros; also exactly behind a member, which tarfile takes for an end
        with tarfile.open(path) as tar:
            ends = ends - {len(content) - 600} | {member.offset for member in tar.getmembers()}
    for end in sorted(end for end in ends if end < len(content)):
        path.write_bytes(content[:end])
        assert str(path) in refusal(root), end
    assert len(samples) == 24


@pytest.mark.parametrize("kind", ["parquet", "arrow", "tar"])
def test_bytes_that_are_changed_give_one_line_or_other_images(kind: str, images: Path, tmp_path: Path) -> None:
    root = packed({"arrow": "saved"}.get(kind, kind), images, tmp_path / "packed")
    path = sorted(root.rglob(f"*.{kind}"))[-1]
    content, generator = path.read_bytes(), numpy.random.default_rng(1)
    for _ in range(25):
        changed = bytearray(content)
        for place in generator.integers(0, len(content), 3):
            changed[place] = generator.integers(0, 256)
        path.write_bytes(changed)
        with suppress(lct.LctpruneError):  # and no other
            batches(load(root)[0])


def members(images: Path, *more: tuple[str, bytes]) -> list[tuple[str, bytes]]:
    return [*tar_members(samples_in(images / "train")), *more]


def test_hostile_members_of_a_tar_file_are_left_alone(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in members(images, ("../out.jpg", b"x"), ("../out.cls", b"a"), ("._a.jpg", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)):
            member = tarfile.TarInfo(f"link{number}.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    before = sorted(tmp_path.rglob("*"))
    assert "x.tar: ../out.jpg cannot be read as an image" in refusal(path)  # a name, and no path
    assert sorted(tmp_path.rglob("*")) == before
    huge = tarfile.TarInfo("pax")
    huge.type, huge.size = tarfile.XHDTYPE, 2**60
    path.write_bytes(huge.tobuf(tarfile.GNU_FORMAT) + path.read_bytes())
    assert "x.tar is damaged" in refusal(path)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([("z.jpg", b"x")], ["z.jpg", "no label"]),
        ([("z.jpg", b""), ("z.cls", b"a")], ["z.jpg", "0 bytes"]),
        ([("z.jpg", b"x"), ("z.png", b"x"), ("z.cls", b"a")], ["z.jpg", "z.png", "several images"]),
        ([("z.jpg", b"x"), ("z.cls", b"")], ["no label"]),
        ([("z.jpg", b"x"), ("z.json", b"{")], ["x.tar"]),
        ([("z.jpg", b"x"), ("z.json", b"[" * 100_000)], ["x.tar"]),
        ([("z.jpg", b"x"), ("z.json", b'{"label": [1]}')], ["z.json", "[1]"]),
        ([("z.jpg", b"x"), ("z.json", b'{"size": 1}')], ["no label"]),
        ([("z.jpg", b"x"), ("z.cls", b"\xff")], ["x.tar"]),
        ([("z.jpg", b"x"), ("z.cls", b"a" * 2**21)], ["z.cls", "2,097,152"]),
        ([("z.jpg", b"x"), ("z.cls", b"a\x1b[2J")], ["no name for a class"]),
    ],
)
def test_samples_of_a_tar_file_that_cannot_be_used_are_named(
    more: list[tuple[str, bytes]], words: list[str], images: Path, tmp_path: Path
) -> None:
    write_tar(tmp_path / "x.tar", members(images, *more))
    text = refusal(tmp_path / "x.tar")
    assert all(word in text for word in words), text


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar"])
def test_a_compressed_tar_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"x" * 5000))
    for path in (tmp_path / name, tmp_path):
        assert name in (text := refusal(path))
        assert "decompress" in text


def test_what_a_tar_file_holds_besides_is_left_out_with_a_note(images: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", members(images, ("readme.txt", b"x")))
    data, notes = load(tmp_path / "x.tar", target=None)
    assert any("1 member" in note and "readme.txt" in note for note in notes)
    assert load(tmp_path / "x.tar")[0].fingerprint == data.fingerprint


def changed(images: Path, **columns: Any) -> Any:
    """A table of the training images with other columns; None removes one."""
    table = arrow_table(samples_in(images / "train"))
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, pyarrow.array(values))
    return table


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"label": [0] * 24}, {}, ["1 class"]),
        ({"label": None}, {}, ["no column of labels", "`target=COLUMN`"]),
        ({"label": [0, 1, 2] * 8}, {}, ["label 2", "2 classes"]),
        ({"label": [None, 1, 0] * 8}, {}, ["sample 0", "no label"]),
        ({"label": [-1, 1, 0] * 8}, {}, ["sample 0", "no label"]),
        ({"label": [0.5, 1.0] * 12}, {}, ["double"]),
        ({"label": [[0], [1]] * 12}, {}, ["list"]),
        ({}, {"target": "kind"}, ["'kind'", "image, label"]),
        ({}, {"task": "regression"}, ["regression"]),
        ({"image": [b""] + [b"x"] * 23}, {}, ["row 0", "0 bytes"]),
        ({"image": [b"x"] * 23 + [None]}, {}, ["row 23", "no bytes"]),
        ({"image": [{"bytes": None, "path": "/etc/passwd"}] * 24}, {}, ["row 0", "no bytes"]),
    ],
)
def test_columns_that_cannot_be_used_are_named(
    columns: dict[str, Any], options: dict[str, Any], words: list[str], images: Path, tmp_path: Path
) -> None:
    pyarrow.parquet.write_table(changed(images, **columns), tmp_path / "x.parquet")
    text = refusal(tmp_path / "x.parquet", **options)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    "labels",
    [["a", "b"], ["a", "b "], [True, False], [2, 10], [1.0, 0.0], pyarrow.array(["a", "b"]).dictionary_encode()],
)
def test_labels_are_names_or_numbers(labels: Any, images: Path, tmp_path: Path) -> None:
    values = pyarrow.array(labels) if isinstance(labels, list) else labels
    table = changed(images, label=None).replace_schema_metadata(None)
    repeated = pyarrow.concat_arrays([values] * 12)
    pyarrow.parquet.write_table(table.append_column("label", repeated), tmp_path / "x.parquet")
    texts = [str(label).strip().lower().removesuffix(".0") for label in values.to_pylist()]
    data, _ = load(tmp_path / "x.parquet")
    assert data.classes == tuple(sorted({*texts}, key=lambda text: (text.isdigit() and int(text), text)))


def test_a_split_without_labels_and_classes_without_images_are_left_out(images: Path, tmp_path: Path) -> None:
    classes, root = ("a", "none", "b"), tmp_path / "x"
    samples = [(name, content, 2 * label) for name, content, label in samples_in(images / "train")]
    write_parquet(root, "test", arrow_table([(name, content, -1) for name, content, _ in samples], classes))
    write_parquet(root, "train", arrow_table(samples[:16], classes))
    assert "1 class (a)" in refusal(root)
    write_parquet(root, "train", arrow_table(samples, classes))
    data, notes = load(root)
    assert data.classes == ("a", "b")
    assert any("1 of 3 classes" in note and "none" in note for note in notes)
    assert any("test split has no labels" in note for note in notes)
    write_parquet(root, "test", arrow_table(samples, classes[::-1]))
    assert "names other classes" in refusal(root)


def test_files_that_are_missing_or_name_no_split_are_told(images: Path, tmp_path: Path) -> None:
    root = packed("parquet", images, tmp_path / "packed")
    shutil.copy(root / "test-00000-of-00002.parquet", root / "unsupervised.parquet")
    assert any("unsupervised.parquet" in note for note in load(root)[1])
    (root / "train-00001-of-00002.parquet").unlink()
    assert "1 of the 2 files of train" in refusal(root)
    for path in root.glob("train*"):
        path.unlink()
    assert "the splits test" in refusal(root)
    write_tar(root / "x.tar", [])
    assert "several kinds" in refusal(root)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ("train.parquet test.parquet", "train test"),
        ("data/train-0.parquet data/validation-0.parquet", "train val"),
        ("train/0.tar train/1.tar valid/0.tar test/0.tar", "train val test"),
        ("imagenet1k-train-0000.tar imagenet1k-validation-00.tar", "train val"),
        ("cifar10-train.arrow cifar10-test.arrow cache-12-train.arrow", "train test"),
        ("train-00000-of-00001-0a1b2c.parquet test-00000-of-00001-ff00.parquet", "train test"),
        ("part-00000-aa.snappy.parquet part-00001-aa.snappy.parquet _SUCCESS", "all"),
        ("train-0.tar train-1.tar", "all"),
        ("0.tar 1.TAR", "all"),
    ],
)
def test_splits_are_told_by_names(names: str, splits: str, tmp_path: Path) -> None:
    for name in names.split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_shards(tmp_path)
    assert found is not None
    assert sorted(found.splits) == sorted(splits.split())
    used = [path for paths in found.splits.values() for path in paths]
    assert sorted(found.name_of(path) for path in used) == sorted(
        name for name in names.split() if not name.startswith(("cache-", "_"))
    )


def test_folders_of_images_are_no_packed_data(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "photos")
    for name in ("photos.tar.gz", "labels.parquet"):
        (tmp_path / "photos" / name).touch()
    data, notes = load(tmp_path / "photos")
    assert any("labels.parquet" in note for note in notes)
    assert data.fingerprint == load(images)[0].fingerprint


@pytest.mark.parametrize("name", ["../x.arrow", "a/b.arrow", "/etc/passwd", ""])
def test_files_outside_the_folder_are_not_read(name: str, images: Path, tmp_path: Path) -> None:
    root = packed("saved", images, tmp_path / "packed")
    (root / "train" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    assert "outside its folder" in refusal(root)


def test_a_copy_of_the_images_is_made_once(images: Path, tmp_path: Path, cache: Path) -> None:
    root = packed("parquet", images, tmp_path / "packed")
    assert any("copied" in note for note in load(root)[1])
    folder = cache / "lctprune" / "images"
    copies = {path: path.stat().st_ino for path in folder.iterdir()}
    assert len(copies) == 4
    for path in copies:
        os.utime(path, (0, 0))
    assert not any("copied" in note for note in load(root)[1])
    assert copies == {path: path.stat().st_ino for path in folder.iterdir()}
    first, *others = copies
    os.utime(first, (0, 0))  # when it was used last
    load(packed("parquet", images, tmp_path / "other"))
    assert {*folder.iterdir()} > {*others}
    assert not first.exists()
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert "remove it" in refusal(root) or "cannot be read" in refusal(root)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": ["a"] * 20}, "test.parquet has no column label"),
        ({"text": [b"a"] * 20, "label": [0, 1] * 10}, "test.parquet: text holds values of type binary"),
        ({"text": [1] * 20, "label": [0, 1] * 10}, "test.parquet: text holds values of type int64"),
        ({"label": [0, 1] * 10}, "test.parquet has no column text"),
    ],
)
def test_files_with_other_columns_than_the_first_are_named(columns: dict[str, Any], words: str, tmp_path: Path) -> None:
    texts = pyarrow.table({"text": ["good film", "bad film"] * 20, "label": [0, 1] * 20})
    pyarrow.parquet.write_table(texts, tmp_path / "train.parquet")
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "test.parquet")
    assert words in refusal(tmp_path)


def test_small_files_that_hold_much_are_refused(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nulls = pyarrow.record_batch([pyarrow.nulls(10**8)] * 2, names=["a", "y"])
    with pyarrow.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, nulls.schema) as out:
        for _ in range(1000):
            out.write_batch(nulls)
    assert "100,000,000,000 rows" in refusal(tmp_path / "x.arrow")
    monkeypatch.setattr(arrow_images, "SMALL_BYTES", 0)
    name, content, _ = samples_in(images / "train")[0]
    alike = [(name, content, number % 2) for number in range(500)]
    pyarrow.parquet.write_table(arrow_table(alike), tmp_path / "x.parquet")
    assert "100 times" in refusal(tmp_path / "x.parquet")


def test_a_cache_that_cannot_be_written_is_named(images: Path, tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file")
    assert "XDG_CACHE_HOME" in refusal(packed("parquet", images, tmp_path / "packed"))


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    for name in ("x.parquet", "x.tar", "x.arrow"):
        os.mkfifo(tmp_path / name)
        assert "a pipe" in refusal(tmp_path / name)


def test_files_by_datasets_itself(images: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = arrow_table(samples_in(images / "train"))
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = datasets.Dataset.from_parquet(str(tmp_path / "x.parquet"), cache_dir=str(tmp_path / "hf"))
        datasets.DatasetDict(train=read, test=read).save_to_disk(tmp_path / "saved")
    for own, other in zip(batches(load(tmp_path / "saved")[0]), batches(load(tmp_path / "x.parquet")[0]), strict=False):
        assert own.shape[1:] == other.shape[1:]
    assert load(tmp_path / "saved")[0].classes == ("a", "b")


@pytest.mark.slow
def test_100_000_rows_are_listed_in_bounded_time_and_memory(images: Path, tmp_path: Path) -> None:
    samples = samples_in(images / "train")
    table = pyarrow.concat_tables([arrow_table(samples)] * 4_200)
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shards = find_shards(tmp_path / "x.parquet")
        assert shards is not None
        config = lct.DataConfig(name=str(tmp_path / "x.parquet"))
        list_arrow(shards, packed_kind(shards, None), config)  # copies
        tracemalloc.start()
        start = time.process_time()
        listing = list_arrow(shards, packed_kind(shards, None), config)
        seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(len(paths) for paths, _ in listing[1:4]) == 100_800
    assert seconds < 20
    assert peak < 100 * 100_800
