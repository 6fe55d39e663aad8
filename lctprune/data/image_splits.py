"""The splits of labelled image files: what names them, and how those that are missing are drawn."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from lctprune.config.data import DataConfig
from lctprune.data.held_out import stratified
from lctprune.data.image_listing import Files, nfc, some, subset
from lctprune.errors import DataError, DataWarning

TEST_FRACTION = 0.2  # of data that is not split
LEAST_PER_CLASS = 3  # images from which three splits can be drawn
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


def divided(parts: Mapping[str, Files], config: DataConfig, classes: Sequence[str]) -> tuple[Files, Files, Files]:
    """Return training, validation and test split; what is missing is drawn, by a seed and balanced by class.

    Args:
        parts: files of each split there is, or all files as "all".
        config: fraction of the validation split, and the seed.
        classes: names of the classes, for messages.

    Raises:
        DataError: a class is too small.
    """
    if "all" in parts:
        files = parts["all"]
        counts = files[1].bincount(minlength=len(classes))
        if (least := int(counts.min())) < LEAST_PER_CLASS:
            raise DataError(
                f"class {classes[int(counts.argmin())]} has {least} image{'s' * (least != 1)}; three splits need at "
                f"least {LEAST_PER_CLASS} of each class; add images, or remove the class"
            )
        rest, held_out = stratified(files[1], TEST_FRACTION, seed=0)
        files, test = subset(files, rest), subset(files, held_out)
    elif "val" in parts and "test" in parts:
        return parts["train"], parts["val"], parts["test"]
    else:
        files, test = parts["train"], parts.get("test") or parts["val"]
    train, val = stratified(files[1], config.val_fraction, config.seed)
    return subset(files, train), subset(files, val), test


def warn_of_drawn_splits(source: str | Path, classes: Sequence[str]) -> None:
    """Say that images come without splits.

    Warns:
        DataWarning: always.
    """
    warnings.warn(
        f"{source} has no splits: a fifth of each of its {len(classes)} classes ({some(classes)}) becomes the test "
        "split, and --val-fraction of the rest the validation split; split it yourself if images show the same thing",
        DataWarning,
        stacklevel=3,
    )
