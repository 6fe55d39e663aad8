"""Listing images: those that torchvision's ImageFolder lists, without what people and systems leave in folders."""

from __future__ import annotations

import hashlib
import os
import time
import tracemalloc
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_trees import images, listed, names, refusal, sizes, touch
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from lctprune.data.images.listing import ENDINGS, Omissions, class_folders, labelled_images
from lctprune.utils.names import visible

NAMES = st.sampled_from(["a", "B", "10", "9", "a b", "é", "x.png", "1.JPG", "2.jpeg", "b.webp", "c.tiff", "notes.txt"])
TREES = st.recursive(st.none(), lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=12)


def make(place: Path, tree: Any, pool: list[Path], draw: Any) -> None:
    """Make folders (dictionaries) and files (None); some of the folders lie elsewhere, behind a link."""
    if tree is None:
        place.write_bytes(b"x")
        return
    if draw(st.booleans()):
        elsewhere = pool[0] / str(len(pool))
        pool.append(elsewhere)
        place.symlink_to(elsewhere)
        place = elsewhere
    place.mkdir()
    for name, inner in tree.items():
        make(place / name, inner, pool, draw)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_images_are_those_of_imagefolder(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("tree")
    (root / "pool").mkdir()
    (root / "train").mkdir()
    pool = [root / "pool"]
    for name in ("cat", "dog", "10", "9"):
        make(root / "train" / name, data.draw(st.dictionaries(NAMES, TREES, max_size=4)), pool, data.draw)
        touch(root / "train", [f"{name}/0.png"])
    theirs = ImageFolder(str(root / "train"))
    omissions = Omissions()
    folders = class_folders(root / "train", omissions)
    assert [*folders] == theirs.classes == ["10", "9", "cat", "dog"]
    files = labelled_images(folders, [*folders], omissions)
    assert sorted(zip(map(str, files[0]), files[1].tolist(), strict=True)) == sorted(theirs.samples)
    assert omissions.loops == omissions.dangling == omissions.twice == []


def test_images_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    touch(tmp_path, ["train/a/b/1.png", "train/a/b.png", "train/a/B.png", "train/a/b c/1.png", "train/b/1.png"])
    touch(tmp_path, images("test/a test/b val/a val/b"))
    listing, _ = listed(tmp_path)
    everything = [path for files in listing[1:4] for path, _ in names(files, tmp_path)]
    assert listing.fingerprint == hashlib.sha256("\n".join(everything).encode()).hexdigest()  # that of older runs
    paths = [path for path, _ in names(listing.train, tmp_path / "train")]
    assert paths == sorted(paths, key=lambda path: path.split("/"))
    assert paths[-1] == "b/1.png"


def test_what_systems_leave_behind_is_no_image_and_no_class(tmp_path: Path) -> None:
    touch(tmp_path, images("train/a train/b test/a test/b"))
    junk = (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", ".ipynb_checkpoints/0-checkpoint.png")
    junk += ("__MACOSX/0.png", "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/a/0.png")
    touch(tmp_path, [f"{folder}/{name}" for folder in ("train", "train/a", "test", "test/b", ".") for name in junk])
    touch(tmp_path, ["README.md", "train/README.dataset.txt", "data.yaml"])
    listing, notes = listed(tmp_path)
    assert listing.classes == ("a", "b")
    assert sizes(listing) == (8, 2, 10)
    assert notes == []


def test_images_are_known_by_any_usual_ending(tmp_path: Path) -> None:
    endings = ".jpg .JPG .Jpeg .jfif .jpe .JFIF .png .PNG .webp .tif .TIFF .bmp .gif .ppm".split()
    touch(tmp_path, [f"train/{name}/{index}{end}" for name in "ab" for index, end in enumerate(endings)])
    touch(tmp_path, images("val/a val/b test/a test/b"))
    listing, notes = listed(tmp_path)
    assert sizes(listing)[0] == 2 * len(endings)
    assert notes == []


def test_other_files_are_counted_by_their_endings_in_one_note(tmp_path: Path) -> None:
    touch(tmp_path, images("train/a train/b test/a test/b"))
    touch(tmp_path, ["train/a/x.txt", "train/b/deep/y.HEIC", "train/b/z.heic", "test/a/LICENSE", "train/labels.csv"])
    listing, [note] = listed(tmp_path)
    assert sizes(listing) == (8, 2, 10)
    assert f"{tmp_path}: 4 files" in note
    for part in ("2 .heic", "1 .txt", "1 without ending", str(tmp_path / "test/a/LICENSE")):
        assert part in note
    assert ".csv" not in note  # it is no file of a class


def test_images_beside_class_folders_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, [*images("train/a train/b test/a test/b"), "train/cover.png", "test/x.jpg"])
    listing, [note] = listed(tmp_path)
    assert sizes(listing) == (8, 2, 10)
    assert "2 images in no class folder" in note
    assert str(tmp_path / "test/x.jpg") in note


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, images("pool/batch pool/dog data/train/cat pool/test/cat pool/test/dog"))
    for link, place in {"train/cat/more": "batch", "train/dog": "dog", "test": "test"}.items():
        (tmp_path / "data" / link).symlink_to(tmp_path / "pool" / place)
    (tmp_path / "data/train/cat/linked.png").symlink_to(tmp_path / "pool/dog/0.png")
    listing, notes = listed(tmp_path / "data")
    assert listing.classes == ("cat", "dog")
    assert (sum(sizes(listing)[:2]), sizes(listing)[2]) == (16, 10)
    assert notes == []


def test_circles_of_links_end_and_are_named(tmp_path: Path) -> None:
    touch(tmp_path, images("data/train/a data/train/b data/test/a data/test/b pool"))
    (tmp_path / "data/train/a/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/train/a/self").symlink_to(".")
    (tmp_path / "data/train/b/pool").symlink_to(tmp_path / "pool")
    (tmp_path / "pool/back").symlink_to(tmp_path / "data/train/b")
    (tmp_path / "data/itself").symlink_to("itself")
    listing, [note] = listed(tmp_path / "data")
    assert (sum(sizes(listing)[:2]), sizes(listing)[2]) == (15, 10)
    assert "3 links back to a folder above" in note
    assert str(tmp_path / "data/train/a/self") in note


def test_folders_that_all_link_to_each_other_do_not_take_forever(tmp_path: Path) -> None:
    touch(tmp_path, images("data/train/a data/train/b data/test/a data/test/b"))
    touch(tmp_path, [f"pool/{index}/{index}.png" for index in range(12)])
    for index in range(12):
        for other in {*range(12)} - {index}:
            (tmp_path / f"pool/{index}/to{other}").symlink_to(tmp_path / f"pool/{other}")
    (tmp_path / "data/train/a/pool").symlink_to(tmp_path / "pool/0")
    listing, notes = listed(tmp_path / "data")
    assert {Path(path).name for path in listing.train[0] + listing.val[0]} >= {f"{index}.png" for index in range(12)}
    assert any("not followed" in note for note in notes)


def test_links_to_nothing_and_what_is_no_file_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, images("train/a train/b test/a test/b"))
    for link in ("train/a/gone.png", "train/b/folder"):
        (tmp_path / link).symlink_to(tmp_path / "nowhere")
    (tmp_path / "train/c").symlink_to("c")  # a link that leads to itself
    os.mkfifo(tmp_path / "test/a/pipe.png")
    (tmp_path / "test/b/device.png").symlink_to("/dev/zero")
    listing, [links, special] = listed(tmp_path)
    assert listing.classes == ("a", "b")
    assert sizes(listing) == (8, 2, 10)
    assert "3 links to nothing" in links
    assert str(tmp_path / "train/a/gone.png") in links
    assert "2 files left out" in special
    assert "such as " + str(tmp_path / "test/a/pipe.png") in special


def test_a_split_that_is_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, images("train/a train/b test/a test/b"))
    (tmp_path / "valid").symlink_to(tmp_path / "nowhere")
    assert refusal(tmp_path).startswith(f"{tmp_path / 'valid'} is a link to nothing")


def test_a_folder_that_is_in_two_splits_is_named(tmp_path: Path) -> None:
    touch(tmp_path, images("train/a train/b test/a"))
    (tmp_path / "test/b").symlink_to(tmp_path / "train/b")
    listing, [note] = listed(tmp_path)
    assert sizes(listing) == (8, 2, 10)
    assert "1 folder reached by several paths" in note
    assert f"{tmp_path / 'test/b'}, which is {tmp_path / 'train/b'}" in note


def test_both_forms_of_unicode_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = "café", unicodedata.normalize("NFD", "café")
    touch(tmp_path, images(f"train/{composed} train/b test/{decomposed} test/b"))
    listing, notes = listed(tmp_path)
    assert listing.classes == ("b", composed)
    assert sizes(listing) == (8, 2, 10)
    assert notes == []
    touch(tmp_path, [f"train/{decomposed}/x.png"])  # as an archive of a Mac leaves it beside the other
    assert sum(sizes(listed(tmp_path)[0])[:2]) == 11


def test_the_fingerprint_does_not_tell_the_forms_of_unicode_apart_but_finds_changes(tmp_path: Path) -> None:
    found = set()
    for form in ("NFC", "NFD"):
        root = tmp_path / form
        touch(root, images(unicodedata.normalize(form, "train/é train/b test/é test/b")))
        found.add(listed(root)[0].fingerprint)
    assert len(found) == 1
    (root / "test/b/4.png").rename(root / "test/b/5.png")
    assert listed(root)[0].fingerprint not in found


def test_class_names_are_sorted_as_text_and_shown_as_they_are(tmp_path: Path) -> None:
    classes = [*map(str, range(11)), "big cat", "[dog] (old)", "a,b"]
    for split in ("train", "test"):
        touch(tmp_path / split, [f"{name}/{index}.png" for name in classes for index in (1, 2)])
    listing, _ = listed(tmp_path, val_fraction=0.5)
    assert listing.classes == tuple(sorted(classes))
    assert listing.classes[:3] == ("0", "1", "10")
    assert listing.classes == tuple(ImageFolder(str(tmp_path / "train")).classes)


def test_a_class_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, images("train/a train/b test/a test/b"))
    (tmp_path / "train" / "bad\udcff").mkdir()
    assert "no text" in refusal(tmp_path)


def test_files_of_any_name_that_is_text_are_listed(tmp_path: Path) -> None:
    others = ("test/a/\u00e9.png", "test/a/a b [c].png", "test/a/\udcff.txt")
    touch(tmp_path, [*images("train/a train/b test/a test/b"), *others])
    assert sizes(listed(tmp_path)[0])[2] == 12


@pytest.mark.parametrize("name", ["train/a/bad\udcff.png", "test/b/\udcfe/0.png"])
def test_images_whose_names_are_not_utf8_are_refused_like_classes(name: str, tmp_path: Path) -> None:
    touch(tmp_path, [*images("train/a train/b test/a test/b"), name])
    message = refusal(tmp_path)
    assert f"1 image with names that are not UTF-8: {visible(str(tmp_path / name))}; rename" in message
    assert message.isascii()


def test_images_of_0_bytes_are_named(tmp_path: Path) -> None:
    touch(tmp_path, images("train/a train/b test/a test/b"))
    for index in (1, 3):
        (tmp_path / f"test/a/{index}.png").write_bytes(b"")
    message = refusal(tmp_path)
    assert "2 images of 0 bytes" in message
    assert f"{tmp_path / 'test/a/1.png'}, {tmp_path / 'test/a/3.png'}" in message


def test_an_empty_class_is_named_with_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, [*images("train/a train/b test/a test/b"), "train/c/1.heic", "train/c/2.heic"])
    assert refusal(tmp_path) == (
        f"{tmp_path / 'train/c'} holds no images (but 2 other files, such as 1.heic); add some or remove the folder"
    )


def test_every_ending_that_torchvision_reads_is_an_images() -> None:
    assert {*IMG_EXTENSIONS} <= ENDINGS


# --- many files ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hundred_thousand_files_are_listed_in_bounded_time_and_memory(tmp_path: Path) -> None:
    touch(tmp_path, [f"{split}/c{number:02}/first.jpg" for split in ("train", "test") for number in range(50)])
    for number in range(50):
        folder = tmp_path / f"train/c{number:02}"
        for index in range(2000):
            os.link(folder / "first.jpg", folder / f"picture_{index:06}.jpg")
    tracemalloc.start()
    listing, _ = listed(tmp_path, val_fraction=0.1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sizes(listing) == (90045, 10005, 50)
    assert peak < 400 * 100_050  # bytes: the paths twice, while the validation split is drawn
    start = time.process_time()
    listed(tmp_path, val_fraction=0.1)
    assert time.process_time() - start < 10  # 2 as a rule
