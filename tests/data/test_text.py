"""Text: files of sentences and labels, and vocabularies."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lctprune.data.texts.text import PADDING, UNKNOWN, Vocabulary, read_sentences, tokens
from lctprune.data.tokens import FIRST_TOKENIZER, TOKENIZER, tokenizer_of
from lctprune.errors import ConfigError, DataError

SENTENCES = ["A good film .", "a bad film, isn't it?", "Good , good !", "", "..."]
sentences = st.lists(st.text(max_size=30), max_size=12)


def decoded(vocabulary: Vocabulary, row: Sequence[int]) -> list[str]:
    return [vocabulary.words[index] for index in row if index != 0]


# --- files -----------------------------------------------------------------------------------------------------------


def written(folder: Path, content: bytes) -> Path:
    path = folder / "train.tsv"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("good film\t1\nbad\t0\n", [("good film", "1"), ("bad", "0")]),
        ("good\tpositive", [("good", "positive")]),  # no line feed at the end
        ("\n  \ngood\t1\n\n\nbad\t0\n\n", [("good", "1"), ("bad", "0")]),
        ("good\t1\r\n\r\nbad\t0\r\n", [("good", "1"), ("bad", "0")]),
        ("\t0\n", [("", "0")]),  # an empty sentence
        ("a\tb\t0\n", [("a\tb", "0")]),  # the last tab counts
        (" good \t very good \n", [(" good ", "very good")]),
        ("caf\u00e9 \u2028 \u0431\t\u00e9\n", [("caf\u00e9 \u2028 \u0431", "\u00e9")]),  # a line separator ends no line
        ("\ufeffgood\t1\n", [("good", "1")]),  # a byte order mark
    ],
)
def test_lines_of_sentences_and_labels(tmp_path: Path, content: str, expected: list[tuple[str, str]]) -> None:
    read, labels = read_sentences(written(tmp_path, content.encode()))
    assert list(zip(read, labels, strict=True)) == expected


@given(rows=st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\n")), st.integers())))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]]) -> None:
    rows = [("x", 0), *rows]
    content = "".join(f"{sentence}\t{label}\n" for sentence, label in rows)
    path = written(tmp_path_factory.mktemp("text"), content.encode())
    assert read_sentences(path) == ([sentence for sentence, _ in rows], [str(label) for _, label in rows])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\t1\nbad film\n", r"train.tsv, line 2 has no tab \('bad film'\); it must be sentence<TAB>label"),
        (b"\ngood\t1\nbad\t\n", r"train.tsv, line 3 has no label after the tab \('bad'\); it must be sentence<TAB>"),
        (b"good\t \n", r"line 1 has no label after the tab"),
        (b"good\t1\n\t\n", r"line 2 has no label after the tab \(''\)"),
        (b"bad " * 100, r"line 1 has no tab \('bad bad bad bad bad bad bad bad bad b\.\.\.'\)"),
        (b"good\t1\nbad\t0\nna\xefve\t1\n", r"train.tsv, line 3 is not UTF-8 \(byte 0xef\); convert the file to UTF-8"),
        (b"\xef\xbb\xbfgood\t1\n\xff\n", r"line 2 is not UTF-8 \(byte 0xff\)"),
        (b"", "train.tsv has no sentences; it must have lines of the form sentence<TAB>label"),
        (b"\n \n", "train.tsv has no sentences"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_sentences(written(tmp_path, content))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dev.tsv cannot be read \(No such file or directory\); give a file with"):
        read_sentences(tmp_path / "dev.tsv")
    with pytest.raises(DataError, match="is a folder; it must be a regular file"):
        read_sentences(str(tmp_path))


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("A good, GOOD film!", ["a", "good", ",", "good", "film", "!"]),
        ("isn't it 'odd' ?", ["isn't", "it", "'", "odd", "'", "?"]),
        ("wo n't -- 3.5", ["wo", "n't", "-", "-", "3", ".", "5"]),
        ("Caf\u00e9 \u0411\u0410\u041d", ["caf\u00e9", "\u0431\u0430\u043d"]),
        ("<padding> \U0001f600", ["<", "padding", ">", "\U0001f600"]),
        (" \t\u00a0\u2028 ", []),
    ],
)
def test_words_and_punctuation_marks(sentence: str, expected: list[str]) -> None:
    assert tokens(sentence) == expected


@given(st.text())
def test_nothing_but_white_space_is_lost(sentence: str) -> None:
    found = tokens(sentence)
    text = unicodedata.normalize("NFKC", sentence).lower().replace("\u2019", "'")
    assert "".join(found) == re.sub(r"[\s\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]", "", text)
    assert all(re.fullmatch(TOKENIZER.pattern, token) for token in found)
    assert not {PADDING, UNKNOWN, ""} & set(found)


@given(st.text(st.characters(codec="ascii")))
def test_english_is_split_as_by_the_first_rule(sentence: str) -> None:
    assert tokens(sentence) == tokenizer_of(FIRST_TOKENIZER).tokens(sentence)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("\u6e56\u4eba\u51fb\u8d25\u706b\u7bad", list("\u6e56\u4eba\u51fb\u8d25\u706b\u7bad")),  # Chinese
        ("\U00020bb7\u91ce", ["\U00020bb7", "\u91ce"]),  # beyond 16 bits
        ("\u30c6\u30ec\u30d3\u3067\u3059\u3002", [*"\u30c6\u30ec\u30d3\u3067\u3059", "\u3002"]),  # Japanese
        ("\uff83\uff9a\uff8b\uff9e", list("\u30c6\u30ec\u30d3")),  # in half width
        ("\u0e14\u0e35\u0e21\u0e32\u0e01", ["\u0e14\u0e35", "\u0e21", "\u0e32", "\u0e01"]),  # Thai
        ("\u0e9e\u0eb2\u0eaa\u0eb5", ["\u0e9e", "\u0eb2", "\u0eaa\u0eb5"]),  # Lao
        ("\u1780\u17bb\u1798", ["\u1780\u17bb", "\u1798"]),  # Khmer
        ("\u1780\u200b\u1798", ["\u1780", "\u1798"]),  # with its invisible space
        ("\u1019\u102c\u1010", ["\u1019\u102c", "\u1010"]),  # Burmese
        ("\u65b0\u578biPhone15\u624b\u673a", ["\u65b0", "\u578b", "iphone15", "\u624b", "\u673a"]),  # words in it stay
        ("2024\u5e74", ["2024", "\u5e74"]),
        ("\uff21\uff22\uff0c\u3000\uff11\uff01", ["ab", ",", "1", "!"]),  # full width
        (
            "\u092b\u093f\u0932\u094d\u092e \u0905\u091a\u094d\u091b\u0940\u0964",
            ["\u092b\u093f\u0932\u094d\u092e", "\u0905\u091a\u094d\u091b\u0940", "\u0964"],
        ),
        (
            "\u0646\u064e\u0635\u0651 \u0645\u06cc\u200c\u062e\u0648\u0627",
            ["\u0646\u064e\u0635\u0651", "\u0645\u06cc\u200c\u062e\u0648\u0627"],
        ),  # Arabic, Persian
        ("\ud55c\uad6d\uc5b4 \ubb38\uc7a5", ["\ud55c\uad6d\uc5b4", "\ubb38\uc7a5"]),  # Korean has spaces
        ("Cafe\u0301 = caf\u00e9", ["caf\u00e9", "=", "caf\u00e9"]),  # both forms of a letter
        ("I don\u2019t", ["i", "don't"]),
    ],
)
def test_scripts_without_spaces_are_split_into_characters(sentence: str, expected: list[str]) -> None:
    assert tokens(sentence) == expected


def test_a_rule_that_is_not_known_is_named() -> None:
    assert tokenizer_of(None) is TOKENIZER
    with pytest.raises(DataError, match=r"'syllables'.*knows words, words-or-characters"):
        tokenizer_of("syllables")


def test_the_fraction_of_unknown_words() -> None:
    vocabulary = Vocabulary.of(["good film"], min_count=1)
    assert vocabulary.unknown_fraction(["good day film day", ""]) == 0.5
    assert vocabulary.unknown_fraction(["good day film day"], max_length=1) == 0
    assert vocabulary.unknown_fraction(["", " "]) == 0


# --- Vocabulary ------------------------------------------------------------------------------------------------------


def test_words_are_in_order_of_frequency_then_of_the_alphabet() -> None:
    vocabulary = Vocabulary.of(SENTENCES)
    assert vocabulary.words == (PADDING, UNKNOWN, ".", "good", ",", "a", "film")  # 4, 3, then 2 times each
    assert len(vocabulary) == 7
    assert Vocabulary.of(SENTENCES, size=4).words == (PADDING, UNKNOWN, ".", "good")
    assert Vocabulary.of(SENTENCES, size=2).words == (PADDING, UNKNOWN)
    assert Vocabulary.of(SENTENCES, min_count=3).words == (PADDING, UNKNOWN, ".", "good")
    assert set(Vocabulary.of(SENTENCES, min_count=1).words) >= {"bad", "isn't", "it", "?", "!"}


@given(texts=sentences, min_count=st.integers(1, 3), size=st.integers(2, 12))
def test_a_vocabulary_has_the_most_frequent_words(texts: list[str], min_count: int, size: int) -> None:
    vocabulary = Vocabulary.of(texts, min_count=min_count, size=size)
    counts = Counter(word for text in texts for word in tokens(text))
    known = vocabulary.words[2:]
    left_out = [word for word in counts if word not in known and counts[word] >= min_count]
    assert len(vocabulary) <= size
    assert all(counts[word] >= min_count for word in known)
    assert list(known) == sorted(known, key=lambda word: (-counts[word], word))
    if left_out:
        assert len(vocabulary) == size
        assert max(counts[word] for word in left_out) <= min((counts[word] for word in known), default=len(counts) * 99)


@given(texts=sentences)
def test_known_words_survive_a_round_trip(texts: list[str]) -> None:
    vocabulary = Vocabulary.of(texts, min_count=1)
    ids = vocabulary.encode(texts)
    assert ids.shape == (len(texts), max((len(tokens(text)) or 1 for text in texts), default=0))
    for text, row in zip(texts, ids.tolist(), strict=True):
        assert decoded(vocabulary, row) == (tokens(text) or [UNKNOWN])


@given(training=sentences, texts=sentences, max_length=st.integers(1, 10))
def test_any_sentence_can_be_encoded(training: list[str], texts: list[str], max_length: int) -> None:
    vocabulary = Vocabulary.of(training)
    ids = vocabulary.encode(texts, max_length)
    assert ids.dtype == torch.int64
    assert ids.shape[1] <= max_length
    for text, row in zip(texts, ids.tolist(), strict=True):
        expected = [word if word in vocabulary.words else UNKNOWN for word in tokens(text)[:max_length]] or [UNKNOWN]
        assert decoded(vocabulary, row) == expected
        assert not any(row[len(expected) :])  # padding is at the end
    assert not texts or (ids != 0).any(0).all()  # and no longer than the longest sentence


def test_encoding_by_hand() -> None:
    vocabulary = Vocabulary.of(SENTENCES)
    assert vocabulary.encode(["A good day.", "", "FILM"]).tolist() == [[5, 3, 1, 2], [1, 0, 0, 0], [6, 0, 0, 0]]
    assert vocabulary.encode(["a good film", "a"], max_length=2).tolist() == [[5, 3], [5, 0]]
    assert vocabulary.encode(["a " * 70]).shape == (1, 64)
    assert vocabulary.encode([]).shape == (0, 0)


@given(texts=sentences)
def test_a_vocabulary_can_be_made_again_from_its_words(texts: list[str]) -> None:
    vocabulary = Vocabulary.of(texts)
    again = Vocabulary(list(vocabulary.words))
    assert again.words == vocabulary.words
    assert torch.equal(again.encode(texts), vocabulary.encode(texts))


@pytest.mark.parametrize("words", [[], ["a", "b"], [UNKNOWN, PADDING], [PADDING, UNKNOWN, "a", "a"]])
def test_words_that_are_no_vocabulary(words: list[str]) -> None:
    with pytest.raises(DataError, match=f"must begin with {PADDING} and {UNKNOWN} .*each word once"):
        Vocabulary(words)


def test_settings_that_cannot_be_used() -> None:
    with pytest.raises(ConfigError, match="min_count is 0; it must be at least 1"):
        Vocabulary.of(SENTENCES, min_count=0)
    with pytest.raises(ConfigError, match="vocabulary size is 1; it must be at least 2"):
        Vocabulary.of(SENTENCES, size=1)
    with pytest.raises(ConfigError, match="max_length is 0; it must be at least 1"):
        Vocabulary.of(SENTENCES).encode(SENTENCES, max_length=0)


def test_a_header_is_no_sentence(tmp_path: Path) -> None:
    path = written(tmp_path, b"sentence\tlabel\ngood\t1\nsentence\tlabel\n")
    assert read_sentences(path) == (["good", "sentence"], ["1", "label"])
