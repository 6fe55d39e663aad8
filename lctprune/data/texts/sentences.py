"""Texts with labels as a data set: train.tsv and test.tsv, with lines sentence<TAB>label, or packed files."""

from __future__ import annotations

import dataclasses
import hashlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.data.dataset import Data
from lctprune.data.images.splits import divided, is_cut
from lctprune.data.packed.kinds import PackedKind, read_labels, read_texts
from lctprune.data.packed.labels import numbered_classes
from lctprune.data.packed.listing import packed_fingerprint
from lctprune.data.packed.shards import Shards
from lctprune.data.tensor_split import TensorSplit
from lctprune.data.texts.text import Vocabulary, read_sentences
from lctprune.data.tokens import tokenizer_of
from lctprune.errors import DataError
from lctprune.utils.files import read_regular

TRAIN_FILE, TEST_FILE = "train.tsv", "test.tsv"
VALIDATION_FILES = ("val.tsv", "dev.tsv")
_Part = tuple[list[str], Tensor]  # texts and class numbers
MOST_UNKNOWN = 0.8  # fraction of the validation split's words


def text_data(config: DataConfig, *, tokenizer: str | None = None) -> Data:
    """Load sentences from train.tsv and test.tsv; val.tsv or dev.tsv is the validation split, or else a part of train.

    Where train.tsv stands alone, all splits are drawn from it. The vocabulary is made of the training split alone.

    Args:
        config: path of the folder, words that are kept, and the validation split.
        tokenizer: name of the rule that splits sentences into words; by default the present one.

    Raises:
        DataError: a file is missing or malformed, or has a label that does not occur in train.tsv; or nearly no word of
            the validation split occurs in the training split.
    """
    root = Path(config.name)
    held_out = next((root / name for name in VALIDATION_FILES if (root / name).is_file()), None)
    files = {"train": root / TRAIN_FILE, "test": root / TEST_FILE} | ({"val": held_out} if held_out else {})
    if not files["test"].exists():
        del files["test"]
    sentences, labels = read_sentences(files["train"])
    classes = tuple(sorted({_composed(label): label for label in sorted(labels)}.values()))
    if len(classes) < 2:
        raise DataError(f"{files['train']} has only one label, {classes[0]!r}; classification needs at least 2")
    if labels.count(labels[0]) == 1 and len(sentences[0].split()) == 1:
        raise DataError(
            f"{files['train']}, line 1 is one word with a label that no other line has, {labels[0]!r}; if it is a "
            "header, change it to sentence<TAB>label; otherwise add sentences with that label"
        )
    parts = {"train": (sentences, _numbered(labels, classes, files["train"]))}
    parts |= {split: _read(file, classes) for split, file in files.items() if split != "train"}
    divisions = divided(root, parts, config, classes, noun="sentence")
    content = b"".join(read_regular(file, DataError) for file in files.values())
    data = _encoded(config, divisions, classes, held_out or files["train"], tokenizer)
    fingerprint = hashlib.sha256(content).hexdigest()
    return dataclasses.replace(data, fingerprint=fingerprint, val_from_train=is_cut(parts))


def packed_text_data(config: DataConfig, shards: Shards, found: PackedKind, *, tokenizer: str | None = None) -> Data:
    """Load texts and labels from two columns of Parquet or Arrow files; splits that are missing are drawn.

    Args:
        config: words that are kept, and the validation split.
        shards: the files.
        found: columns of the texts and labels.
        tokenizer: name of the rule that splits texts into words; by default the present one.

    Raises:
        DataError: a file cannot be read; or a text or a label is missing, or a class is too small.
    """
    classes, targets = numbered_classes(shards.root, read_labels(shards, found), found.classes)
    texts = {split: read_texts(shards, split, found.column) for split in targets}
    parts = {split: (texts[split], targets[split]) for split in targets}
    divisions = divided(shards.root, parts, config, classes, noun="text")
    contents = {split: ("\0".join(each).encode(errors="surrogateescape"),) for split, each in texts.items()}
    return dataclasses.replace(
        _encoded(config, divisions, classes, shards.root, tokenizer),
        fingerprint=packed_fingerprint(shards, classes, targets, contents),
        val_from_train=is_cut(parts),
    )


def _encoded(
    config: DataConfig, parts: Sequence[_Part], classes: tuple[str, ...], source: Path, tokenizer: str | None
) -> Data:
    """Turn the texts of the three splits into numbers, by the words of the training split."""
    vocabulary = Vocabulary.of(parts[0][0], tokenizer=tokenizer_of(tokenizer))
    _require_known_words(vocabulary, parts[1][0], source, config.max_length)
    train, val, test = (TensorSplit(vocabulary.encode(texts, config.max_length), targets) for texts, targets in parts)
    return Data(
        train=train,
        val=val,
        test=test,
        classes=classes,
        config=config,
        vocabulary=vocabulary.words,
        tokenizer=vocabulary.tokenizer.name,
        typical=_of_median_length(val.inputs),
    )


def _read(path: Path, classes: Sequence[str]) -> _Part:
    sentences, labels = read_sentences(path)
    return sentences, _numbered(labels, classes, path)


def _numbered(labels: Sequence[str], classes: Sequence[str], path: Path) -> Tensor:
    numbers = {_composed(name): number for number, name in enumerate(classes)}
    for label in labels:
        if _composed(label) not in numbers:
            raise DataError(
                f"{path} has the label {label!r}, which does not occur in {TRAIN_FILE} ({', '.join(classes)})"
            )
    return torch.tensor([numbers[_composed(label)] for label in labels])


def _composed(label: str) -> str:
    """Return a label in the one normal form in which labels that look alike are equal."""
    return unicodedata.normalize("NFC", label)


def _require_known_words(vocabulary: Vocabulary, sentences: Sequence[str], path: Path, max_length: int) -> None:
    unknown = vocabulary.unknown_fraction(sentences, max_length)
    if unknown > MOST_UNKNOWN:
        raise DataError(
            f"{unknown:.0%} of the words of the validation split (from {path}) do not occur twice in the training "
            f"split, and a network learns nothing from them (the limit is {MOST_UNKNOWN:.0%}); are both in one "
            "language and writing, with spaces between words? If so, give more training sentences"
        )


def _of_median_length(ids: Tensor) -> Tensor:
    """Return the sample of median length without padding, [1, length]."""
    lengths = (ids != 0).sum(1)
    index = int(lengths.argsort(stable=True)[len(lengths) // 2])
    return ids[index : index + 1, : int(lengths[index])]
