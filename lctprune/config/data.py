"""Which data to train on, and how it is split."""

from __future__ import annotations

from dataclasses import dataclass

from lctprune.config.fields import setting
from lctprune.errors import ConfigError

AUGMENTATIONS = ("auto", "none", "crop", "crop-flip")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, and how it is split: what a run remembers of it.

    Raises:
        ConfigError: a value is out of range.
    """

    name: str = setting(
        "digits",
        "digits, digits-rows, cifar10, cifar100, fashion-mnist; a folder with train/ and test/ of images, or with "
        "train.tsv and test.tsv of sentences; or a table, FILE.csv.",
    )
    data_dir: str = setting("data", "Where torchvision's data sets are kept.")
    image_size: int | None = setting(None, "Side of an image in pixels; by default the data set's own.")
    augment: str = setting("auto", "Training augmentation: auto, none, crop or crop-flip.")
    shift: float = setting(
        1 / 16,
        "Farthest that a crop of an image up to 96 pixels moves it, as a share of its side; 0.125 is usual for long "
        "trainings.",
    )
    val_fraction: float = setting(0.1, "Share of the training samples held out for validation.")
    task: str = setting("classification", "classification; or regression, of a table.")
    target: str | None = setting(None, "Column of a table that is to be predicted; by default the last.")
    max_length: int = setting(64, "Words of a sentence that are kept.")
    seed: int = setting(0, "Seed of the validation split.")

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 8:
            raise ConfigError(f"image size is {self.image_size}; it must be at least 8 pixels")
        if self.augment not in AUGMENTATIONS:
            raise ConfigError(f"augment is {self.augment!r}; it must be one of {', '.join(AUGMENTATIONS)}")
        if not 0 < self.shift <= 0.5:
            raise ConfigError(
                f"shift is {self.shift}; it must be greater than 0 and at most 0.5 (--augment: none at all)"
            )
        if not 0 < self.val_fraction < 1:
            raise ConfigError(f"val_fraction is {self.val_fraction}; it must lie between 0 and 1")
        if self.task not in ("classification", "regression"):
            raise ConfigError(f"task is {self.task!r}; it must be classification or regression")
        if self.task == "regression" and not self.is_table:
            raise ConfigError(f"regression needs a table, FILE.csv; the data is {self.name!r}")
        if self.target is not None and not self.is_table:
            raise ConfigError(f"target is {self.target!r}, a column of a table; but the data is {self.name!r}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"data seed is {self.seed}; it must lie between 0 and 2**32 - 1")
        if self.max_length < 1:
            raise ConfigError(f"max_length is {self.max_length}; it must be at least 1")

    @property
    def is_table(self) -> bool:
        return self.name.lower().endswith(".csv")
