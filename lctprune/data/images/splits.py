"""The splits of labelled image files: what names them, and how those that are missing are drawn."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lctprune.config.data import DataConfig
from lctprune.data.held_out import drawn_by_class, hold_out
from lctprune.data.images.listing import nfc, some
from lctprune.data.packed_samples import Samples, subset
from lctprune.errors import DataError, DataWarning
from lctprune.utils.wording import counted

TEST_FRACTION = 0.2  # of data that is not split
LEAST_PER_CLASS = 3  # images of which each split can have one
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("eval", "evaluation"), "eval"),  # the one of val and test that is missing
}
SPLIT_NAME = re.compile(rf"({'|'.join(SPLIT_WORDS)})[ _.-]?(?:set|split|data|images|imgs)?")


def split_of(name: str) -> str | None:
    """Return the split that a folder or a word names, in any letter case: train, val, test or eval."""
    match = SPLIT_NAME.fullmatch(nfc(name).strip().casefold())
    return SPLIT_WORDS[match[1]] if match else None


def without_eval(found: Mapping[str, Sequence[str]], where: str | Path) -> dict[str, str]:
    """Return the name of each split; eval is the validation split beside test, and otherwise the test split.

    Args:
        found: names that stand for each split.
        where: folder or file, for messages.

    Raises:
        DataError: two names stand for one split.
    """
    splits = {split: list(names) for split, names in found.items() if split != "eval"}
    if "eval" in found:
        splits.setdefault("val" if "test" in splits and "val" not in splits else "test", []).extend(found["eval"])
    for names in splits.values():
        if len(names) > 1:
            raise DataError(f"{where} has two splits of one kind: {' and '.join(sorted(names))}; keep one of them")
    return {split: names[0] for split, names in splits.items()}


def divided(
    source: Path,
    parts: Mapping[str, tuple[Samples, Tensor]],
    config: DataConfig,
    classes: Sequence[str],
    *,
    noun: str = "image",
) -> tuple[tuple[Samples, Tensor], tuple[Samples, Tensor], tuple[Samples, Tensor]]:
    """Return training, validation and test split; what is missing is drawn, by a seed and balanced by class.

    Args:
        source: folder or file of the images, for messages.
        parts: files of each split there is; or all files alone, as "all" or as a training split.
        config: fraction of the validation split, and the seed.
        classes: names of the classes, for messages.
        noun: what a sample is, for messages.

    Raises:
        DataError: a class is too small.

    Warns:
        DataWarning: there are no splits, or one lacks a class.
    """
    if len(parts) == 1:
        [files] = parts.values()
        parts = _drawn(source, files, config, classes, noun)
    for split, adjective in (("val", "validation"), ("test", "test")):
        counts = parts[split][1].bincount(minlength=len(classes)).tolist() if split in parts else ()
        if missing := [name for name, count in zip(classes, counts, strict=False) if not count]:
            text = (
                f"{source} has no {adjective} {noun}s of {some(missing)}; what is measured on them says nothing of that"
            )
            warnings.warn(text, DataWarning, stacklevel=4)
    if "val" in parts and "test" in parts:
        return parts["train"], parts["val"], parts["test"]
    train, val = hold_out(parts["train"][1], config.val_fraction, config.seed)
    return subset(parts["train"], train), subset(parts["train"], val), parts.get("test") or parts["val"]


def is_cut(parts: Mapping[str, Any]) -> bool:
    """Tell whether `divided` cuts the validation split from the training files."""
    return not {"val", "test"} <= parts.keys()


def _drawn(
    source: Path, files: tuple[Samples, Tensor], config: DataConfig, classes: Sequence[str], noun: str
) -> dict[str, tuple[Samples, Tensor]]:
    """Draw all three splits; the test split is the same for all seeds."""
    rest, test = drawn_by_class(files[1], TEST_FRACTION, seed=0)
    train, val = (rest[part] for part in drawn_by_class(files[1][rest], config.val_fraction, config.seed))
    if not len(val):
        raise DataError(
            f"{source} has no splits, and {counted(len(files[0]), noun)} of {len(classes)} classes are too few to "
            f"draw them; a class needs at least {LEAST_PER_CLASS}"
        )
    warnings.warn(
        f"{source} has no splits: a fifth of each of its {len(classes)} classes ({some(classes)}) becomes the test "
        f"split, and `val_fraction` of the rest the validation split; split it yourself if {noun}s show the same thing",
        DataWarning,
        stacklevel=5,
    )
    return {"train": subset(files, train), "val": subset(files, val), "test": subset(files, test)}
