"""Data sets of sequences: sentences in text files, and the embedded digits read row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.data.dataset import Data
from lctprune.data.splits import TensorSplit, stratified
from lctprune.data.text import Vocabulary, read_sentences
from lctprune.errors import DataError

VALIDATION = ("val.tsv", "dev.tsv")


def text_data(config: DataConfig) -> Data:
    """Sentences from train.tsv and test.tsv; val.tsv or dev.tsv is the validation split, or else a part of train.

    The vocabulary is that of the training split alone.

    Raises:
        DataError: a file is missing or malformed, or has a label that train has not.
    """
    root = Path(config.name)
    held_out = next((root / name for name in VALIDATION if (root / name).is_file()), None)
    files = [root / "train.tsv", root / "test.tsv", *([held_out] if held_out else [])]
    sentences, labels = read_sentences(files[0])
    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise DataError(f"{files[0]} has one label only, {classes[0]!r}; classification needs at least 2")
    if labels.count(labels[0]) == 1 and len(sentences[0].split()) == 1:
        raise DataError(
            f"{files[0]}, line 1 is one word with a label that no other line has, {labels[0]!r}; if it is a header, "
            "write sentence<TAB>label there, or else add sentences with that label"
        )
    targets = _numbered(labels, classes, files[0])
    if held_out:
        train_part, val_part = (sentences, targets), _read(held_out, classes)
    else:
        train, val = (part.tolist() for part in stratified(targets, config.val_fraction, config.seed))
        train_part, val_part = (([sentences[index] for index in part], targets[part]) for part in (train, val))
    vocabulary = Vocabulary.of(train_part[0])
    train_split, val_split, test_split = (
        TensorSplit(vocabulary.encode(part, config.max_length), part_targets)
        for part, part_targets in (train_part, val_part, _read(files[1], classes))
    )
    return Data(
        train=train_split,
        val=val_split,
        test=test_split,
        classes=classes,
        fingerprint=hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest(),
        config=config,
        vocabulary=vocabulary.words,
        typical=_of_median_length(val_split.inputs),
    )


def _read(path: Path, classes: Sequence[str]) -> tuple[list[str], Tensor]:
    sentences, labels = read_sentences(path)
    return sentences, _numbered(labels, classes, path)


def _numbered(labels: Sequence[str], classes: Sequence[str], path: Path) -> Tensor:
    numbers = {name: number for number, name in enumerate(classes)}
    for label in labels:
        if label not in numbers:
            raise DataError(f"{path} has the label {label!r}, which train.tsv has not ({', '.join(classes)})")
    return torch.tensor([numbers[label] for label in labels])


def _of_median_length(ids: Tensor) -> Tensor:
    """The sample of median length, [1, its length]."""
    lengths = (ids != 0).sum(1)
    index = int(lengths.argsort(stable=True)[len(lengths) // 2])
    return ids[index : index + 1, : int(lengths[index])]
