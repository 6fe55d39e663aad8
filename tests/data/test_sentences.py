"""Data sets of sequences: sentences in .tsv files, and digits row by row; their splits, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lctprune as lct
from lctprune.data.builtin import digits
from lctprune.data.texts.text import PADDING, UNKNOWN, Vocabulary, read_sentences
from lctprune.training.trainer import open_run
from lctprune.workflows.model_card import model_card

# the files here are too small to have all classes
pytestmark = pytest.mark.filterwarnings("ignore:.* has no (validation|test) sentences of:lctprune.errors.DataWarning")

TRAIN = [(f"{word} film {'again ' * (index % 4)}", word) for index in range(10) for word in ("good", "bad")]
TEST = [("a good film", "good"), ("bad", "bad"), ("", "bad"), ("never seen words", "good")]


def write(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    path.write_text("".join(f"{sentence}\t{label}\n" for sentence, label in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train.tsv", TRAIN)
    write(tmp_path / "test.tsv", TEST)
    return tmp_path


def load(folder: Path, **changes: object) -> lct.Data:
    return lct.load_data(lct.DataConfig(name=str(folder), **{"val_fraction": 0.2, **changes}))


def inputs_of(split: lct.Split) -> Tensor:
    assert isinstance(split, lct.TensorSplit)
    return split.inputs


def words_of(data: lct.Data, split: lct.Split) -> list[list[str]]:
    return [[data.vocabulary[number] for number in row.tolist() if number] for row in inputs_of(split)]


def error_of(folder: Path, **changes: object) -> str:
    with pytest.raises(lct.DataError) as caught:
        load(folder, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- splits ----------------------------------------------------------------------------------------------------------


def test_validation_is_cut_from_train_balanced_and_by_the_seed(folder: Path) -> None:
    data = load(folder)
    assert data.classes == ("bad", "good")
    assert data.num_outputs == 2
    assert data.train.targets.bincount().tolist() == [8, 8]
    assert data.val.targets.bincount().tolist() == [2, 2]
    known = sorted([word if word in data.vocabulary else UNKNOWN for word in text.split()] for text, _ in TRAIN)
    assert sorted(words_of(data, data.train) + words_of(data, data.val)) == known
    assert torch.equal(inputs_of(load(folder).val), inputs_of(data.val))
    others = [load(folder, seed=seed) for seed in range(1, 5)]
    assert any(words_of(other, other.val) != words_of(data, data.val) for other in others)


@pytest.mark.parametrize("name", ["val.tsv", "dev.tsv"])
def test_a_validation_file_leaves_train_whole(name: str, folder: Path) -> None:
    write(folder / name, [("bad bad film", "bad"), ("good", "good"), ("film", "good")])
    data = load(folder)
    assert len(data.train.targets) == len(TRAIN)
    assert words_of(data, data.val) == [["bad", "bad", "film"], ["good"], ["film"]]
    assert data.val.targets.tolist() == [0, 1, 1]


def test_the_test_split_is_that_of_its_file_in_order(folder: Path) -> None:
    data = load(folder)
    assert data.test.targets.tolist() == [1, 0, 0, 1]
    assert words_of(data, data.test) == [[UNKNOWN, "good", "film"], ["bad"], [UNKNOWN], [UNKNOWN] * 3]


def test_the_vocabulary_is_of_the_training_split_alone(folder: Path) -> None:
    write(folder / "val.tsv", [("onlyval onlyval", "bad"), ("good", "good")])
    write(folder / "test.tsv", [("onlytest onlytest", "bad")])
    data = load(folder)
    assert data.vocabulary == Vocabulary.of([text for text, _ in TRAIN]).words
    assert data.vocabulary[:2] == (PADDING, UNKNOWN)
    assert not {"onlyval", "onlytest"} & set(data.vocabulary)


def test_words_of_the_held_out_part_of_train_are_not_in_the_vocabulary(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", [(f"and w{index} w{index}", "ab"[index % 2]) for index in range(20)])
    write(tmp_path / "test.tsv", [("w0", "a")])
    data = load(tmp_path)
    assert len(data.vocabulary) == 2 + 1 + 16
    assert all(words == ["and", UNKNOWN, UNKNOWN] for words in words_of(data, data.val))


@pytest.mark.parametrize("known", [0, 1, 2])
def test_a_validation_split_of_unknown_words_is_refused(known: int, folder: Path) -> None:
    write(folder / "val.tsv", [(" ".join(["good"] * known + ["fremd"] * (9 - known)), "good")])
    if known == 2:
        assert len(load(folder).val.targets) == 1
    else:
        message = error_of(folder)
        assert f"{(9 - known) / 9:.0%} of the words of the validation split" in message
        assert "val.tsv" in message


def test_text_without_spaces_is_learnt_by_its_characters(tmp_path: Path) -> None:
    heads = [("\u6e56\u4eba\u706b\u7bad"[index % 4] + "\u8d62\u7403", "a") for index in range(20)]
    heads += [("\u592e\u884c\u80a1\u5e02"[index % 4] + "\u4e0b\u8dcc", "b") for index in range(20)]
    write(tmp_path / "train.tsv", heads)
    write(tmp_path / "test.tsv", heads)
    data = load(tmp_path)
    assert inputs_of(data.test).shape == (40, 3)
    assert bool((inputs_of(data.test) > 1).all())


def test_an_older_run_keeps_the_rule_that_it_was_trained_with(folder: Path) -> None:
    write(folder / "train.tsv", [*TRAIN, *[("\u6e56\u4eba caf\u0301", "good")] * 3])
    data = load(folder)
    assert data.tokenizer == "words-or-characters"
    assert {"\u6e56", "\u4eba"} < set(data.vocabulary)
    old = lct.load_data(lct.DataConfig(name=str(folder)), tokenizer="words")
    assert old.tokenizer == "words"
    assert "\u6e56\u4eba" in old.vocabulary


def test_labels_that_look_alike_are_one_class(folder: Path) -> None:
    write(folder / "train.tsv", [("good film", "caf\u00e9"), ("bad film", "the")] * 10)
    write(folder / "test.tsv", [("good film", "cafe\u0301")])
    data = load(folder)
    assert data.classes == ("caf\u00e9", "the")
    assert data.test.targets.tolist() == [0]


def test_a_class_that_a_split_lacks_is_named(folder: Path) -> None:
    write(folder / "val.tsv", [("good film", "good")])
    with pytest.warns(lct.DataWarning, match="no validation sentences of bad"):
        load(folder)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_ragged_batches_are_freed_of_common_padding(folder: Path) -> None:
    data = load(folder)
    assert inputs_of(data.test).shape == (4, 3)
    shapes = [tuple(inputs.shape) for inputs, _ in data.test.batches(1)]
    assert shapes == [(1, 3), (1, 1), (1, 1), (1, 3)]
    assert [tuple(inputs.shape) for inputs, _ in data.test.batches(3)] == [(3, 3), (1, 3)]
    for inputs, _ in data.train.shuffled(4, seed=0):
        assert inputs.dtype == torch.int64
        assert (inputs != 0).sum(1).max() == inputs.shape[1]
    whole, _ = next(data.test.batches(4))
    assert torch.equal(whole, inputs_of(data.test))


def test_max_length_cuts_sentences(folder: Path) -> None:
    assert inputs_of(load(folder).train).shape[1] == 5
    data = load(folder, max_length=2)
    assert all(inputs_of(split).shape[1] == 2 for split in (data.train, data.val, data.test))
    assert words_of(data, data.test)[0] == [UNKNOWN, "good"]
    with pytest.raises(lct.ConfigError, match="max_length is 0"):
        load(folder, max_length=0)


def test_the_example_is_a_sentence_of_median_length(folder: Path) -> None:
    write(folder / "val.tsv", [("film " * count, "good") for count in (9, 1, 3, 7, 4)])
    data = load(folder)
    assert data.example.shape == (1, 4)
    assert bool((data.example != 0).all())
    write(folder / "val.tsv", [("", "good")])
    assert load(folder).example.tolist() == [[1]]


def test_the_fingerprint_is_of_the_content(folder: Path) -> None:
    before = load(folder).fingerprint
    assert load(folder).fingerprint == before
    for name, sentence in (("train.tsv", "changed film"), ("test.tsv", "changed"), ("val.tsv", "film")):
        with (folder / name).open("a") as file:
            file.write(f"{sentence}\tgood\n")
        after = load(folder).fingerprint
        assert after != before
        before = after


def test_a_run_knows_its_text_again(folder: Path, tmp_path: Path) -> None:
    data = load(folder)
    config = lct.NetworkConfig(
        model="lstm", model_args={"layers": 1, "width": 4}, groups=2, vocabulary=len(data.vocabulary), num_outputs=2
    )
    run = lct.train(lct.build_network(config), data, lct.TrainConfig(epochs=1), run_dir=tmp_path / "run")
    again = lct.Run(run.path).load_data()
    assert again.vocabulary == data.vocabulary
    assert torch.equal(inputs_of(again.val), inputs_of(data.val))
    write(folder / "test.tsv", [("another", label) for _, label in TEST])
    with pytest.raises(lct.RunError, match="has changed since"):
        run.load_data()


def test_a_run_without_a_recorded_rule_goes_on_with_the_first_one(folder: Path, tmp_path: Path) -> None:
    write(folder / "train.tsv", [*TRAIN, *[("\u6e56\u4eba", "good")] * 9])
    data = lct.load_data(lct.DataConfig(name=str(folder)), tokenizer="words")
    config = lct.NetworkConfig(
        model="lstm", model_args={"layers": 1, "width": 4}, groups=2, vocabulary=len(data.vocabulary), num_outputs=2
    )
    path = lct.train(lct.build_network(config), data, lct.TrainConfig(epochs=1), run_dir=tmp_path / "run").path
    document = json.loads((path / "config.json").read_text())
    assert document["data"].pop("tokenizer") is None
    (path / "config.json").write_text(json.dumps(document))  # as an earlier version wrote it
    again = lct.Run(path).load_data()
    assert again.vocabulary == data.vocabulary != load(folder).vocabulary
    card = model_card(lct.Run(path), lct.measure_run(lct.Run(path), keep=False), 0, None)["input"]
    assert (card["tokenizer"], card["normal_form"]) == ("words", None)
    assert re.findall(card["pattern"], "\u6e56\u4eba!") == ["\u6e56\u4eba", "!"]
    settings = lct.TrainConfig(epochs=1)
    resumed = open_run(lct.build_network(config), again, settings, run_dir=path, resume=True)
    assert resumed.epochs_done == 1


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test.tsv", "val.tsv"])
def test_a_label_that_train_has_not(name: str, folder: Path) -> None:
    write(folder / name, [("fine", "good"), ("so so", "middling")])
    message = error_of(folder)
    assert name in message
    assert "'middling'" in message
    assert "bad, good" in message


def test_one_label_only(folder: Path) -> None:
    write(folder / "train.tsv", [(text, "good") for text, _ in TRAIN])
    assert "train.tsv has only one label, 'good'" in error_of(folder)


@pytest.mark.parametrize(("name", "line"), [("train.tsv", 21), ("test.tsv", 5)])
def test_a_malformed_line_is_named(name: str, line: int, folder: Path) -> None:
    with (folder / name).open("a") as file:
        file.write("no label here\n")
    message = error_of(folder)
    assert f"{name}, line {line} has no tab" in message
    assert "sentence<TAB>label" in message


def test_sentences_in_one_file_are_divided(folder: Path) -> None:
    (folder / "test.tsv").unlink()
    with pytest.warns(lct.DataWarning, match="has no splits: a fifth of each of its 2 classes"):
        data = lct.load_data(lct.DataConfig(name=str(folder)))
    sizes = [len(split.targets) for split in (data.train, data.val, data.test)]
    assert sum(sizes) == 20
    assert min(sizes) > 0
    assert data.val_from_train


def test_too_few_sentences_to_hold_some_out(folder: Path) -> None:
    write(folder / "train.tsv", [("good film", "good"), ("bad film", "bad")])
    message = error_of(folder)
    assert "too few" in message
    assert "images" not in message


def test_a_text_is_no_regression(folder: Path) -> None:
    with pytest.raises(lct.ConfigError, match=r"regression needs a table"):
        load(folder, task="regression")


# --- digits ----------------------------------------------------------------------------------------------------------


def test_digits_by_rows() -> None:
    data = lct.load_data(lct.DataConfig(name="digits-rows"))
    raw = digits(8)
    assert data.example.shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert len(data.train.targets) + len(data.val.targets) == len(raw.train[1])
    assert torch.equal(data.test.targets, raw.test[1])
    assert data.normalization is not None
    expected = (raw.test[0][0, ..., 0] / 255 - data.normalization.mean[0]) / data.normalization.std[0]
    torch.testing.assert_close(inputs_of(data.test)[0], expected)
    assert abs(inputs_of(data.train).mean()) < 1e-3
    assert inputs_of(data.train).std() == pytest.approx(1, abs=1e-3)


def test_the_rows_are_those_of_the_files_written(folder: Path) -> None:
    assert list(zip(*read_sentences(folder / "test.tsv"), strict=True)) == TEST


def test_a_first_line_that_may_be_a_header_is_refused(tmp_path: Path) -> None:
    lines = [f"{word} film\t{label}" for label, word in (("good", "fine"), ("bad", "poor")) for _ in range(5)]
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(["text\tsentiment", *lines]))
    with pytest.raises(
        lct.DataError,
        match=r"train\.tsv, line 1 is one word with a label that no other line has, 'sentiment'; .*header",
    ):
        lct.load_data(lct.DataConfig(name=str(tmp_path)))
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *lines]))
    assert lct.load_data(lct.DataConfig(name=str(tmp_path))).classes == ("bad", "good")
