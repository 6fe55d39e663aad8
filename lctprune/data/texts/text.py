"""Text classification: reading sentences with labels, and turning words into numbers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lctprune.data.tokens import TOKENIZER, Tokenizer
from lctprune.errors import ConfigError, DataError
from lctprune.utils.files import read_regular

PADDING, UNKNOWN = "<padding>", "<unknown>"  # ids 0 and 1; no text has them, as < is a token by itself


LONGEST_LINE = 2**20  # characters
OF_SENTENCES = "give a file with lines sentence<TAB>label"
OF_TEXT = "the network takes texts, one per line of a file in UTF-8 (or - for standard input)"


def read_sentences(path: str | Path) -> tuple[list[str], list[str]]:
    """Read sentences and labels from lines `sentence<TAB>label` in UTF-8.

    Blank lines are skipped, and so is a header: a first line of just these two words. The label stands after the last
    tab; the sentence may be empty.

    Raises:
        DataError: the file cannot be read, a line has no tab or no label, or the file has no such line.
    """
    sentences, labels = [], []
    for number, line in enumerate(_text(Path(path)).split("\n"), 1):
        if len(line) > LONGEST_LINE:
            raise DataError(f"{path}, line {number} has {len(line):,} characters; it may have {LONGEST_LINE:,}")
        if number == 1 and line.strip().lower() == "sentence\tlabel":
            continue
        sentence, tab, label = line.rpartition("\t")
        label = label.strip()
        if tab and label:
            sentences.append(sentence)
            labels.append(label)
        elif tab or label:
            problem = "has no label after the tab" if tab else "has no tab"
            raise DataError(f"{path}, line {number} {problem} ({_shortened(line)}); it must be sentence<TAB>label")
    if not sentences:
        raise DataError(f"{path} has no sentences; it must have lines of the form sentence<TAB>label")
    return sentences, labels


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is not blank, of a file in UTF-8.

    Args:
        path: the file; of a file named .tsv, what stands after the last tab of a line is a label, which is left out.
            "-" is the standard input.

    Raises:
        DataError: the file cannot be read, or has no such line.
    """
    has_labels, is_empty = path.lower().endswith(".tsv"), True
    for number, line in enumerate(_text(Path(path), OF_TEXT, is_stdin=path == "-").split("\n"), 1):
        if not line.strip() or (has_labels and number == 1 and line.strip().lower() == "sentence\tlabel"):
            continue
        is_empty = False
        yield number, line.rpartition("\t")[0] if has_labels and "\t" in line else line
    if is_empty:
        raise DataError(f"{path} has no lines of text")


def tokens(sentence: str, tokenizer: Tokenizer = TOKENIZER) -> list[str]:
    """Split a sentence into words, characters and punctuation marks, in lower case."""
    return tokenizer.tokens(sentence)


class Vocabulary:
    """Words and their ids: 0 is padding, 1 any unknown word.

    Args:
        words: all words in the order of their ids, beginning with the two special ones, as `Vocabulary.of` makes them.
        tokenizer: rule by which sentences are split into words.

    Raises:
        DataError: the two special words do not come first, or a word occurs twice.
    """

    def __init__(self, words: Iterable[str], tokenizer: Tokenizer = TOKENIZER) -> None:
        self.words = tuple(words)
        self.tokenizer = tokenizer
        self._ids = {word: index for index, word in enumerate(self.words)}
        if self.words[:2] != (PADDING, UNKNOWN) or len(self._ids) < len(self.words):
            raise DataError(f"a vocabulary must begin with {PADDING} and {UNKNOWN} and hold each word once")

    @classmethod
    def of(
        cls, sentences: Iterable[str], *, min_count: int = 2, size: int = 20_000, tokenizer: Tokenizer = TOKENIZER
    ) -> Vocabulary:
        """Collect the words of training sentences, most frequent first, equally frequent ones in alphabetical order.

        Args:
            sentences: sentences of the training split alone.
            min_count: occurrences that a word needs; rarer words are unknown.
            size: largest number of ids; the least frequent words beyond it are unknown.
            tokenizer: rule by which sentences are split into words.

        Raises:
            ConfigError: `min_count` is below 1, or `size` below 2.
        """
        if min_count < 1:
            raise ConfigError(f"min_count is {min_count}; it must be at least 1")
        if size < 2:
            raise ConfigError(f"vocabulary size is {size}; it must be at least 2, for padding and unknown words")
        counts = Counter(token for sentence in sentences for token in tokens(sentence, tokenizer))
        frequent = [word for word, count in counts.items() if count >= min_count]
        frequent.sort(key=lambda word: (-counts[word], word))
        return cls([PADDING, UNKNOWN, *frequent[: size - 2]], tokenizer)

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, sentences: Sequence[str], max_length: int = 64) -> Tensor:
        """Return the ids of each sentence's words, padded with zeros; a sentence without any word is one unknown word.

        Args:
            sentences: n sentences.
            max_length: largest number of words; further ones are cut off.

        Returns:
            int64 [n, longest].

        Raises:
            ConfigError: `max_length` is below 1.
        """
        if max_length < 1:
            raise ConfigError(f"max_length is {max_length}; it must be at least 1")
        rows = [
            [self._ids.get(token, 1) for token in self._tokens(sentence, max_length)] or [1] for sentence in sentences
        ]
        ids = torch.zeros(len(rows), max(map(len, rows), default=0), dtype=torch.int64)
        for row, known in zip(ids, rows, strict=True):
            row[: len(known)] = torch.tensor(known)
        return ids

    def unknown_fraction(self, sentences: Iterable[str], max_length: int = 64) -> float:
        """Return the fraction of the sentences' words that are unknown, 0 to 1; 0 if they have no words.

        Args:
            sentences: sentences.
            max_length: largest number of words; further ones are not counted.
        """
        known = [token in self._ids for sentence in sentences for token in self._tokens(sentence, max_length)]
        return 1 - sum(known) / len(known) if known else 0.0

    def _tokens(self, sentence: str, most: int) -> list[str]:
        return tokens(sentence, self.tokenizer)[:most]


def _text(path: Path, remedy: str = OF_SENTENCES, *, is_stdin: bool = False) -> str:
    try:
        content = sys.stdin.buffer.read() if is_stdin else read_regular(path, DataError)
        return content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        if b"\0" in error.object:  # an image or the like
            raise DataError(f"{path} is not text in UTF-8 (byte 0x{byte:02x} in line {number}); {remedy}") from error
        raise DataError(f"{path}, line {number} is not UTF-8 (byte 0x{byte:02x}); convert the file to UTF-8") from error


def _shortened(line: str, most: int = 40) -> str:
    line = line.strip()
    return repr(line if len(line) <= most else line[: most - 3] + "...")
