"""Which folders are splits, which are classes, and what is drawn where there are no splits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from image_trees import images, listed, names, refusal, sizes, touch

from lctprune.data.held_out import drawn_by_class
from lctprune.data.images.splits import split_of

# --- names of splits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "dev", "Valid", "VALIDATION", "val_set", "eval"])
def test_a_validation_split_by_any_usual_name(validation: str, tmp_path: Path) -> None:
    touch(tmp_path, images(f"train/a train/b test/a test/b {validation}/a {validation}/b"))
    listing, notes = listed(tmp_path)
    assert sizes(listing) == (10, 10, 10)
    assert {Path(path).parts[-3] for path in listing.val[0]} == {validation}
    assert {Path(path).parts[-3] for path in listing.test[0]} == {"test"}
    assert notes == []


@pytest.mark.parametrize(
    ("train", "held_out"),
    [("training", "testing"), ("Train", "Test"), ("training_set", "test_set"), ("train-images", "test-images")]
    + [("train", "valid"), ("train", "eval"), ("train", "evaluation")],
)
def test_two_splits_by_usual_names(train: str, held_out: str, tmp_path: Path) -> None:
    touch(tmp_path, images(f"{train}/a {train}/b {held_out}/a {held_out}/b"))
    listing, notes = listed(tmp_path)
    assert sizes(listing) == (8, 2, 10)
    assert {Path(path).parts[-3] for path in listing.test[0]} == {held_out}
    assert notes == []


def test_evaluation_beside_validation_is_the_test_split(tmp_path: Path) -> None:
    splits = ("training", "validation", "evaluation")
    touch(tmp_path, images(" ".join(f"{split}/{name}" for split in splits for name in "ab")))
    listing, _ = listed(tmp_path)
    assert {Path(path).parts[-3] for path in listing.val[0]} == {"validation"}
    assert {Path(path).parts[-3] for path in listing.test[0]} == {"evaluation"}


@pytest.mark.parametrize("twice", [("val", "valid"), ("test", "Testing"), ("train", "Train"), ("eval", "test")])
def test_two_folders_for_one_split_are_refused(twice: tuple[str, str], tmp_path: Path) -> None:
    splits = {"train", "val", "test", *twice}
    touch(tmp_path, images(" ".join(f"{split}/{name}" for split in splits for name in "ab")))
    assert " and ".join(sorted(twice)) in refusal(tmp_path)


@pytest.mark.parametrize("name", ["test2", "seg_pred", "training station", "values", "devices", "latest", "trains"])
def test_other_names_are_no_splits(name: str) -> None:
    assert split_of(name) is None


def test_a_folder_that_looks_like_a_split_and_is_not_used_is_named(tmp_path: Path) -> None:
    touch(tmp_path, images("train/a train/b test/a test/b holdout/a holdout/b masks unlabelled"))
    listing, [note] = listed(tmp_path)
    assert sizes(listing) == (8, 2, 10)
    assert f"{tmp_path / 'holdout'} is not used" in note
    assert "a, b" in note


def test_train_alone_says_how_it_can_be_split(tmp_path: Path) -> None:
    touch(tmp_path, images("train/a train/b holdout/a holdout/b"))
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path} needs the folders train/ and test/ (or val/)")
    assert "it holds holdout, train" in message
    assert f"`name={tmp_path / 'train'}`" in message
    assert sizes(listed(tmp_path / "train")[0]) == (6, 2, 2)


# --- classes in the splits --------------------------------------------------------------------------------------------


def test_a_class_of_test_in_other_letters_is_named_with_that_of_train(tmp_path: Path) -> None:
    touch(tmp_path, images("train/Cat train/dog test/cat test/dog"))
    message = refusal(tmp_path)
    assert f"{tmp_path / 'test/cat'} is a class that train/ does not have" in message
    assert "call it Cat" in message


def test_a_class_that_a_split_lacks_keeps_its_number_and_is_noted(tmp_path: Path) -> None:
    touch(tmp_path, images("train/a train/b train/c test/c"))
    listing, [note] = listed(tmp_path)
    assert listing.test[1].tolist() == [2] * 5
    assert "no test images of a, b" in note


@pytest.mark.parametrize("folders", ["train test", "train/a train/b test"])
def test_images_without_class_folders_are_refused_with_ways_out(folders: str, tmp_path: Path) -> None:
    touch(tmp_path, images(folders))
    message = refusal(tmp_path)
    assert message.startswith(str(tmp_path / folders.split()[0 if "/" not in folders else -1]))
    assert "path,label,split" in message


# --- folders of classes -----------------------------------------------------------------------------------------------


def test_a_folder_of_classes_is_split(tmp_path: Path) -> None:
    touch(tmp_path, images("cat dog emu", 20))
    listing, [note] = listed(tmp_path, val_fraction=0.25)
    assert listing.classes == ("cat", "dog", "emu")
    assert sizes(listing) == (36, 12, 12)
    for _, labels in listing[1:4]:
        assert len(set(labels.bincount().tolist())) == 1
    paths = [path for files in listing[1:4] for path in files[0]]
    assert len({*paths}) == len(paths) == 60
    assert f"{tmp_path} has no splits" in note
    assert "cat, dog, emu" in note


def test_the_split_of_a_folder_of_classes_is_its_seeds(tmp_path: Path) -> None:
    touch(tmp_path, images("cat dog", 20))
    first, again, other = (listed(tmp_path, seed=seed)[0] for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint
    assert [files[0] for files in first[1:4]] == [files[0] for files in again[1:4]]
    assert first.val[0] != other.val[0]
    assert first.test[0] == other.test[0]  # so that runs of several seeds can be compared
    assert first.fingerprint != other.fingerprint
    touch(tmp_path, ["cat/new.png"])
    assert listed(tmp_path, seed=1)[0].fingerprint != first.fingerprint


def test_every_class_is_in_each_drawn_split(tmp_path: Path) -> None:
    touch(tmp_path, [*images("a b c d e f g h i j", 3), *images("k", 40)])
    listing, _ = listed(tmp_path, val_fraction=0.1)
    for _, labels in listing[1:4]:
        assert labels.bincount(minlength=11).min() == 1


def test_classes_too_small_for_every_split_keep_their_numbers_and_are_noted(tmp_path: Path) -> None:
    touch(tmp_path, [*images("cat dog"), *images("emu", 2), *images("bee", 1)])
    listing, notes = listed(tmp_path)
    assert listing.classes == ("bee", "cat", "dog", "emu")
    counts = [labels.bincount(minlength=4).tolist() for _, labels in listing[1:4]]
    assert counts == [[1, 3, 3, 1], [0, 1, 1, 0], [0, 1, 1, 1]]
    assert any("no validation images of bee, emu" in note for note in notes)
    assert any("no test images of bee" in note for note in notes)


@pytest.mark.parametrize("counts", [(1, 1), (2, 1), (2, 2)])
def test_images_too_few_for_three_splits_are_refused(counts: tuple[int, int], tmp_path: Path) -> None:
    touch(tmp_path, [*images("cat", counts[0]), *images("dog", counts[1])])
    message = refusal(tmp_path)
    assert f"{sum(counts)} images of 2 classes are too few" in message
    assert "at least 3" in message


def test_a_small_class_is_drawn_from_without_a_sample_twice() -> None:
    targets = torch.tensor([0] * 2 + [1] * 7 + [2] + [3] * 100)
    kept, held_out = drawn_by_class(targets, 0.3, seed=5)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == [*range(110)]
    assert targets[held_out].bincount().tolist() == [1, 2, 0, 30]


@pytest.mark.parametrize("classes", ["bus car train", "invalid valid", "dev prod"])
def test_a_class_may_be_called_like_a_split_where_it_holds_images(classes: str, tmp_path: Path) -> None:
    touch(tmp_path, images(classes))
    assert listed(tmp_path)[0].classes == tuple(classes.split())


def test_images_in_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    touch(tmp_path, images("cat/monday cat/tuesday dog/images"))
    listing, _ = listed(tmp_path)
    assert listing.classes == ("cat", "dog")
    assert sum(sizes(listing)) == 15


@pytest.mark.parametrize(
    ("folders", "named"),
    [
        ("cat dog test", "no train/"),
        ("cat dog test/cat test/dog", "no train/"),
        ("cat dog holdout/cat holdout/dog", "holdout is no class"),
        ("seg_train/cat seg_train/dog holdout/cat holdout/dog", "seg_train may be a split"),
        ("train test1", "test1 and {root}/train are named like splits"),
        ("trainA trainB testA testB", "{root}/trainA are named like splits"),
        ("bus training_1 validation.2", "CSV file (path,label,split)"),
        ("cats_train cats_test", "hold images and no folder per class"),
        ("public_test train", "`image_root="),
        ("dogsTrain dogsVal", "rename one"),
        ("cat/train cat/test dog/train dog/test", "as {root}/test/cat"),
        ("images/train images/val labels/train labels/val", "as {root}/train/images"),
    ],
)
def test_what_may_be_splits_is_not_taken_for_classes(folders: str, named: str, tmp_path: Path) -> None:
    touch(tmp_path, images(folders))
    assert named.format(root=tmp_path) in refusal(tmp_path)


@pytest.mark.parametrize("folders", ["train bus", "bullet-train test-tube", "passenger_train freight_train"])
def test_a_class_may_be_called_like_one_split(folders: str, tmp_path: Path) -> None:
    touch(tmp_path, images(folders))
    assert {*listed(tmp_path)[0].classes} == {*folders.split()}


def test_images_without_classes_name_the_only_table_beside_them(tmp_path: Path) -> None:
    touch(tmp_path, [*images("train test1"), "labels.csv"])
    assert f"`name={tmp_path / 'labels.csv'}`" in refusal(tmp_path)
    touch(tmp_path, ["sample.csv"])
    assert "`name=FILE.csv`" in refusal(tmp_path)


@pytest.mark.parametrize("inner", ["", "/{0}"])
@pytest.mark.parametrize("name", ["seg_{0}", "{0}-v2", "animals.{0}.images"])
def test_splits_of_one_name_are_found_and_said(name: str, inner: str, tmp_path: Path) -> None:
    train, test, rest = (name.format(split) + inner.format(name.format(split)) for split in ("train", "test", "pred"))
    touch(tmp_path, images(f"{train}/a {train}/b {test}/a {test}/b {rest}"))
    listing, [note] = listed(tmp_path)
    assert sizes(listing) == (8, 2, 10)
    assert {Path(path).relative_to(tmp_path).parts[0] for path in listing.test[0]} == {name.format("test")}
    for text in (f"{name.format('train')} is taken as train/", f"{name.format('pred')} is not used"):
        assert text in note


def test_classes_that_hold_the_same_folders_get_a_note(tmp_path: Path) -> None:
    touch(tmp_path, images("amazon/mug amazon/pen webcam/mug webcam/pen"))
    listing, notes = listed(tmp_path)
    assert listing.classes == ("amazon", "webcam")
    assert "mug, pen" in notes[0]


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    touch(tmp_path, images("cat dog"))
    (tmp_path / "emu").mkdir()
    assert refusal(tmp_path) == f"{tmp_path / 'emu'} holds no images; add some or remove the folder"


@pytest.mark.parametrize("files", [[], ["0.png"], ["cat/0.png"], ["src/main.py", "docs/index.md"]])
def test_a_folder_that_is_no_data_set_says_what_one_is(files: list[str], tmp_path: Path) -> None:
    touch(tmp_path, files)
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path} needs the folders train/ and test/ (or val/)")
    assert "one folder of images per class, at least 2" in message


# --- folders in folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folders", ["train/a train/b test/a test/b", "a b"])
def test_folders_that_hold_nothing_but_the_data_are_entered(folders: str, tmp_path: Path) -> None:
    touch(tmp_path, [f"pets/pets/{path}" for path in images(folders)])
    touch(tmp_path, ["__MACOSX/pets/._pets", "README.md", ".DS_Store"])
    listing, _ = listed(tmp_path)
    assert listing.classes == ("a", "b")
    assert names(listing.test, tmp_path)[0][0].startswith("pets/pets/")


def test_splits_in_folders_of_their_own_name_are_entered(tmp_path: Path) -> None:
    touch(tmp_path, images("train/train/a train/train/b test/test/a test/test/b"))
    listing, _ = listed(tmp_path)
    assert listing.classes == ("a", "b")
    assert sizes(listing) == (8, 2, 10)


def test_the_only_class_of_a_split_is_not_entered(tmp_path: Path) -> None:
    touch(tmp_path, images("train/a/x train/a/y train/b test/a/x test/a/y"))
    listing, _ = listed(tmp_path)
    assert listing.test[1].tolist() == [0] * 10
    touch(tmp_path / "one", images("train/a/x train/a/y test/a/x"))
    assert "at least 2; it holds a" in refusal(tmp_path / "one")


def test_a_folder_that_holds_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to(tmp_path)
    assert "it holds self" in refusal(tmp_path)
