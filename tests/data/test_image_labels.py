"""Image files listed with their labels in a CSV file: its columns, splits and paths, and what is refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from image_trees import listed, names, refusal, sizes, touch
from PIL import Image

from lctprune.config.data import DataConfig
from lctprune.data.images.labels import lists_images
from lctprune.data.load import load_data, relocated
from lctprune.errors import ConfigError, DataError, DataWarning

COUNT = 24
Cell = Callable[[int], object]


def write(root: Path, header: str, line: Callable[[int], str], *, name: str = "labels.csv", folder: str = "") -> Path:
    """Write a table of 24 lines, and the files 0.png, 1.png, ... that it lists."""
    touch(root / folder, [f"{index}.png" for index in range(COUNT)])
    table = root / name
    table.write_text("\n".join([header, *map(line, range(COUNT))]) + "\n", encoding="utf-8")
    return table


def two(index: int) -> str:
    return f"{index}.png,{'ab'[index % 2]}"


def split(*words: str) -> Callable[[int], str]:
    """Write lines whose splits come in turn, one for a pair of images."""
    return lambda index: f"{two(index)},{words[index // 2 % len(words)]}"


# --- columns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "path,label",
        "file,class",
        "filename,target",
        "image,category",
        "image_path,label",
        "File Path,Label",
        "img,label",
    ]
    + ["file_name,label", "\ufeffpath,label", "Bild,Tier"],
)
def test_columns_by_their_usual_names(header: str, tmp_path: Path) -> None:
    listing, [note] = listed(write(tmp_path, header, two))
    assert listing.classes == ("a", "b")
    assert sizes(listing) == (16, 4, 4)
    assert all(int(Path(path).stem) % 2 == label for path, label in zip(*listing.train, strict=True))
    assert "labels.csv has no splits" in note


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("image,label,class", "{0}.png,3,{1}"),
        (",image,width,class", "{0},{0}.png,8,{1}"),
        ("image,mask,class", "{0}.png,{0}.png,{1}"),
    ],
)
def test_the_column_of_labels_can_be_named(header: str, line: str, tmp_path: Path) -> None:
    table = write(tmp_path, header, lambda index: line.format(index, "ab"[index % 2]))
    assert listed(table, target="class")[0].classes == ("a", "b")
    assert refusal(table, target="nosuch").startswith(f"{table} has no column 'nosuch'; it has ")


@pytest.mark.parametrize(
    ("name", "delimiter"), [("labels.csv", ";"), ("labels.csv", "\t"), ("labels.tsv", "\t"), ("LABELS.CSV", ",")]
)
def test_separators(name: str, delimiter: str, tmp_path: Path) -> None:
    table = write(tmp_path, f"path{delimiter}label", lambda index: two(index).replace(",", delimiter), name=name)
    assert lists_images(DataConfig(name=str(table)))
    assert sizes(listed(table)[0]) == (16, 4, 4)


def test_labels_that_are_numbers_are_classes_sorted_as_text(tmp_path: Path) -> None:
    listing, _ = listed(write(tmp_path, "path,label", lambda index: f"{index}.png,{index % 4 + 8}"))
    assert listing.classes == ("10", "11", "8", "9")


def test_quoted_cells_and_labels_in_both_forms_of_unicode(tmp_path: Path) -> None:
    other = unicodedata.normalize("NFD", "é, f")
    listing, _ = listed(write(tmp_path, "path,label", lambda index: f'{index}.png,"{["é, f", other, "b"][index % 3]}"'))
    assert listing.classes == ("b", "é, f")


@pytest.mark.parametrize(
    ("header", "line", "expected"),
    [
        ("a,b,label", "{0},{1},{2}", False),
        ("image,label", "{0},{2}", False),  # pictures by number: a table of numbers
        ("text,label", "{0} is as in photo.jpg or not,{2}", False),
        ("path,label", "{0}.png,{2}", True),
        ("a,b", "{0}.JPG,{2}", True),
        ("image_id,label", "x{0},{2}", True),
        ("id,label", "x{0},{2}", False),
    ],
)
def test_lists_of_images_are_told_from_other_tables(header: str, line: str, expected: bool, tmp_path: Path) -> None:
    table = write(tmp_path, header, lambda index: line.format(index, index * index, "ab"[index % 2]))
    assert lists_images(DataConfig(name=str(table))) is expected
    assert lists_images(DataConfig(name=str(table), image_root=str(tmp_path)))


# --- splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "words", "expected"),
    [
        ("split", ("train", "val", "test"), (8, 8, 8)),
        ("Subset", ("Training", "VALID", "testing"), (8, 8, 8)),
        ("fold", ("train", "dev", "test"), (8, 8, 8)),
        ("set", ("train", "evaluation", "test"), (8, 8, 8)),
        ("split", ("train", "Train", "test"), (12, 4, 8)),  # the validation split is drawn from train
        ("split", ("train", "val"), (9, 3, 12)),
        ("is_valid", ("False", "True"), (9, 3, 12)),
        ("is_test", ("0", "1"), (9, 3, 12)),
    ],
)
def test_a_column_of_splits(column: str, words: tuple[str, ...], expected: tuple[int, ...], tmp_path: Path) -> None:
    listing, notes = listed(write(tmp_path, f"path,label,{column}", split(*words)))
    assert sizes(listing) == expected
    last = [index for index in range(COUNT) if index // 2 % len(words) == len(words) - 1]
    assert [int(Path(path).stem) for path in listing.test[0]] == last
    assert notes == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("train", "foo", "1"), "(1, foo)"),
        (("train", "", "test"), "(an empty cell)"),
        (("train",), "only the split train"),
        (("val", "test"), "only the split test, val"),
        (("train", "val", "valid", "test"), "val and valid"),
    ],
)
def test_splits_that_cannot_be_are_named(words: tuple[str, ...], named: str, tmp_path: Path) -> None:
    assert named in refusal(write(tmp_path, "path,label,split", split(*words)))


def test_numbers_of_folds_are_no_splits(tmp_path: Path) -> None:
    listing, notes = listed(write(tmp_path, "path,label,fold", split("0", "1", "2")))
    assert sizes(listing) == (16, 4, 4)
    assert "fold holds numbers" in notes[0]


def test_the_drawn_split_is_the_seeds_and_a_changed_label_is_found(tmp_path: Path) -> None:
    table = write(tmp_path, "path,label", two)
    first, again, other = (listed(table, seed=seed)[0] for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.test[0] == other.test[0]
    table.write_text(table.read_text().replace("3.png,b\n", "3.png,a\n", 1))
    assert listed(table)[0].fingerprint != first.fingerprint


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["{0}.png", "./{0}.png", "{0}.PNG", "{0}", "{root}/{0}.png"])
def test_paths_begin_in_the_image_root(given: str, tmp_path: Path) -> None:
    root = tmp_path / "images"
    table = write(
        tmp_path, "path,label", lambda index: f"{given.format(index, root=root)},{index % 2}", folder="images"
    )
    listing, _ = listed(table, image_root=str(root))
    assert sorted(Path(path).resolve() for files in listing[1:4] for path in files[0]) == sorted(root.iterdir())


@pytest.mark.parametrize("given", ["images/{0}.png", "images\\{0}.png"])
def test_paths_begin_in_the_tables_folder(given: str, tmp_path: Path) -> None:
    table = write(tmp_path, "path,label", lambda index: f"{given.format(index)},{index % 2}", folder="images")
    assert len(names(listed(table)[0].test, tmp_path / "images")) == 4


def test_names_in_the_other_form_of_unicode_are_found(tmp_path: Path) -> None:
    table = write(tmp_path, "path,label", two)
    (tmp_path / "3.png").rename(tmp_path / unicodedata.normalize("NFD", "é.png"))
    table.write_text(table.read_text().replace("3.png,", "é.png,", 1))
    assert sum(sizes(listed(table)[0])) == COUNT


def test_missing_files_are_counted_and_named(tmp_path: Path) -> None:
    table = write(tmp_path, "path,label", lambda index: f"{index + 4}.png,{index % 2}")
    message = refusal(table)
    assert f"4 of the 24 images of {table} are missing in {tmp_path}" in message
    assert "24.png in line 22" in message
    assert "and 1 more" in message
    assert "`image_root=" in message


# --- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3.png", "line 26 has 1 cells; the header has 2"),
        ("3.png,", "line 26: label is empty"),
        (",a", "line 26: path is empty"),
        ("./3.png,a", "line 26: ./3.png is a, but b in line 5"),
    ],
)
def test_lines_that_cannot_be_read_are_named(line: str, message: str, tmp_path: Path) -> None:
    table = write(tmp_path, "path,label", two)
    table.write_text(f"{table.read_text()}{line}\n")
    assert message in refusal(table)


def test_an_image_in_two_splits_is_refused(tmp_path: Path) -> None:
    table = write(tmp_path, "path,label,split", split("train", "test"))
    table.write_text(f"{table.read_text()}0.png,a,test\n")
    assert "0.png is a test, but a train in line 2" in refusal(table)


def test_lines_that_repeat_another_count_once(tmp_path: Path) -> None:
    table = write(tmp_path, "path,label", two)
    table.write_text(f"{table.read_text()}\n3.png,b\n")
    listing, notes = listed(table)
    assert sum(sizes(listing)) == COUNT
    assert "1, such as line 27" in notes[0]


@pytest.mark.parametrize(
    ("header", "line", "options", "message"),
    [
        ("0.png,a", two, {}, "must begin with a line of column names"),
        ("path,label", lambda index: f"{index}.png,a", {}, "1 class (a)"),
        ("path,label", lambda index: f"{index}.png,{index // 2}", {}, "24 images of 12 classes are too few"),
        ("path,x,y", lambda index: f"{index}.png,1,2", {}, "several columns that may be labels (x, y)"),
        ("path", lambda index: f"{index}.png", {}, "no column of labels"),
        (
            "image1,image2,y",
            lambda index: f"{index}.png,{index}.png,2",
            {},
            "several columns of paths (image1, image2)",
        ),
        ("a,b,y", lambda index: "1,2,3", {"image_root": "."}, "no column of paths (a, b, y)"),
        ("path,label", two, {"task": "regression"}, "`task=regression`"),
        (
            "path,label,split",
            lambda i: f"{i}.png,{'abc'[i % 2 + (i == 23)]},{'tr' if i < 12 else ''}",
            {},
            "(an empty cell",
        ),
    ],
)
def test_tables_that_cannot_be_read_say_why(
    header: str, line: Callable[[int], str], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    table = write(tmp_path, header, line)
    assert message in refusal(table, **options)


def test_a_class_that_the_training_split_lacks_is_named(tmp_path: Path) -> None:
    table = write(
        tmp_path, "path,label,split", lambda i: f"{i}.png,{'c' if i == 23 else i % 2},{['train', 'test'][i > 9]}"
    )
    assert "line 25: 'c' is a class that no image of the training split has" in refusal(table)


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    table = write(tmp_path, "path,label", two)
    table.write_bytes(table.read_bytes().replace(b",a\n", b",\xe9\n"))
    assert "UTF-8" in refusal(table)


# --- as a data set ----------------------------------------------------------------------------------------------------


def test_the_images_are_loaded_with_their_labels(tmp_path: Path) -> None:
    table = write(tmp_path, "path,label,split", split("train", "val", "test"), folder="images")
    for index in range(COUNT):
        Image.fromarray(numpy.full((8, 8, 3), index, numpy.uint8)).save(tmp_path / f"images/{index}.png")
    data = load_data(DataConfig(name=str(table), image_root=str(tmp_path / "images"), augment="none"))
    for part, offset in ((data.train, 0), (data.val, 2), (data.test, 4)):
        [(inputs, targets)] = part.batches(100)
        assert targets.tolist() == [0, 1] * 4
        assert data.normalization is not None
        values = inputs[:, 0, 0, 0] * data.normalization.std[0] + data.normalization.mean[0]
        expected = [index for index in range(COUNT) if index % 6 in (offset, offset + 1)]
        assert (values * 255).round().int().tolist() == expected


def test_images_that_have_moved_without_their_table_are_found(tmp_path: Path) -> None:
    config = DataConfig(name=str(write(tmp_path, "path,label", two)))
    (tmp_path / "new").mkdir()
    assert relocated(config, tmp_path / "new") == DataConfig(name=config.name, image_root=str(tmp_path / "new"))
    (tmp_path / "labels.csv").rename(tmp_path / "new/labels.csv")
    assert relocated(config, tmp_path / "new") == DataConfig(name=str(tmp_path / "new/labels.csv"))


def test_the_image_root_moves_with_its_table(tmp_path: Path) -> None:
    config = DataConfig(name=str(tmp_path / "old/labels.csv"), image_root=str(tmp_path / "old/images"))
    (tmp_path / "new" / "images").mkdir(parents=True)
    assert relocated(config, tmp_path / "new/labels.csv").image_root == str(tmp_path / "new/images")
    assert relocated(config, tmp_path / "labels.csv").image_root == config.image_root  # only the table has moved


def test_an_image_root_needs_a_table() -> None:
    with pytest.raises(ConfigError, match=r"'pics'.*FILE\.csv.*'digits-cluttered'"):
        DataConfig(image_root="pics")


def test_a_note_is_a_data_warning_and_a_broken_image_is_named(tmp_path: Path) -> None:
    table = write(tmp_path, "path,label", two)
    with pytest.warns(DataWarning, match="has no splits"), pytest.raises(DataError, match=r"\.png cannot be read"):
        load_data(DataConfig(name=str(table)))


# --- a column of 0 and 1 for each class -------------------------------------------------------------------------------


@pytest.mark.parametrize("marks", [("1", "0"), ("1.0", "0.0")])
def test_columns_of_marks_are_classes(marks: tuple[str, str], tmp_path: Path) -> None:
    yes, no = marks
    table = write(
        tmp_path, "image,NV,MEL", lambda index: f"{index},{yes if index % 3 else no},{no if index % 3 else yes}"
    )
    listing, _ = listed(table)
    assert listing.classes == ("MEL", "NV")
    assert sum(int(labels.sum()) for _, labels in listing[1:4]) == 16  # two of three are of the second class
    numbers = {int(Path(path).stem): label for path, label in zip(*listing.train, strict=True)}
    assert all(label == (number % 3 > 0) for number, label in numbers.items())


@pytest.mark.parametrize(("cells", "held"), [("1,1", "cat, dog"), ("0,0", "none")])
def test_several_marks_or_none_in_a_line_are_refused(cells: str, held: str, tmp_path: Path) -> None:
    table = write(tmp_path, "filename, cat, dog", lambda index: f"{index}.png, {cells if index == 5 else '1,0'}")
    message = refusal(table)
    for text in ("2 columns of 0 and 1", "1 of 24 lines", f"line 7 ({held})", "`target`"):
        assert text in message


def roboflow(root: Path, **marked: str) -> None:
    """Write folders of splits with images and a table of marks each; a word gives the class of each of its images."""
    for folder, classes in marked.items():
        touch(root / folder, [f"{index}.jpg" for index in range(len(classes))])
        lines = (f"{index}.jpg, {int(name == 'a')}, {int(name == 'b')}" for index, name in enumerate(classes))
        (root / folder / "_classes.csv").write_text("\n".join(["filename, a, b", *lines]))


def test_folders_of_splits_with_a_table_of_marks_each(tmp_path: Path) -> None:
    roboflow(tmp_path, train="abab", valid="ba", test="ab")
    listing, notes = listed(tmp_path)
    assert listing.classes == ("a", "b")
    assert names(listing.train, tmp_path) == [(f"train/{index}.jpg", index % 2) for index in range(4)]
    assert names(listing.val, tmp_path) == [("valid/0.jpg", 1), ("valid/1.jpg", 0)]
    assert names(listing.test, tmp_path) == [("test/0.jpg", 0), ("test/1.jpg", 1)]
    assert notes == []
    roboflow(tmp_path, train="abab", valid="ab", test="ab")
    assert listed(tmp_path)[0].fingerprint != listing.fingerprint
    (tmp_path / "test" / "_classes.csv").unlink()
    assert f"{tmp_path / 'test' / '_classes.csv'} is missing" in refusal(tmp_path)


def test_a_class_that_only_a_held_out_table_has_is_refused(tmp_path: Path) -> None:
    roboflow(tmp_path, train="abab", test="ab")
    table = tmp_path / "test" / "_classes.csv"
    table.write_text("filename, c, b\n0.jpg, 1, 0\n1.jpg, 0, 1\n")
    assert f"{table}, line 2: 'c'" in refusal(tmp_path)


def test_a_folder_of_images_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    table = write(tmp_path, "path,label", two)
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_data(DataConfig(name=str(table), image_root=str(tmp_path / "\udcff")))
