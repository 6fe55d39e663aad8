"""The settings of the data: which data set, and how it is split."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lctprune.config.fields import DATA, FIRST, require_choices, setting
from lctprune.config.images import MOST_PIXELS, colour_of
from lctprune.errors import ConfigError

MOST_WORKERS = 256
TABLES = (".csv", ".tsv", ".data", ".all-data")  # endings of tables' names, in lower case


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Settings of the data: which data set, how training images are augmented, and which part is held out.

    A run records them, to load the same data again.

    Raises:
        ConfigError: a value is out of range.
    """

    name: str = setting(
        "digits-cluttered",
        "digits-cluttered, digits, digits-rows, cifar10, cifar100, fashion-mnist; a folder with train/ and test/ of "
        "one folder of images per class, or of such folders alone, or with train.tsv and test.tsv of sentences; "
        "FILE.csv, a table, or paths and labels of images, or a folder with train.csv and test.csv; Parquet files, tar "
        "files of WebDataset, a folder of datasets.save_to_disk, or hf:NAME of the Hugging Face hub.",
        panel=FIRST,
    )
    data_dir: str = setting("data", "Folder in which torchvision's data sets are kept.", panel=DATA)
    image_root: str | None = setting(
        None, "Folder that the paths of images in FILE.csv begin in. Default: the one that holds the file.", panel=DATA
    )
    image_size: int | None = setting(
        None, "Side of the square images, in pixels. Default: the data set's own.", panel=FIRST
    )
    resize: Literal["auto", "crop", "pad", "squeeze"] = setting(
        "auto",
        "How images that are not square become so: crop (the centre), pad (with the background), squeeze, or auto: "
        "crop, but pad where a crop would lose more than half of the average picture.",
        panel=DATA,
    )
    background: str = setting(
        "white", "Colour behind transparent images and beside padded ones: a name, or #rrggbb.", panel=DATA
    )
    augment: Literal["auto", "none", "crop", "crop-flip"] = setting(
        "auto",
        "Random changes of training images: none, crop (shifts), crop-flip (shifts and mirroring), or auto: what suits "
        "the data set.",
        panel=DATA,
    )
    randaugment: int = setting(
        0,
        "Against overfitting: two random operations of RandAugment on each training image, as strong as this number, 1 "
        "to 30; 9 is usual. 0: none.",
        panel=DATA,
    )
    balance_classes: bool = setting(
        False,
        "For classes of uneven size: show each equally often, by repeating samples of rare ones and leaving out some "
        "of frequent ones, others in every epoch. Validation and test splits stay as they are.",
        panel=DATA,
    )
    mean: tuple[float, ...] | None = setting(
        None,
        "Mean of each channel of the images, as 0.485,0.456,0.406 for pixels between 0 and 1; one number is for all. "
        "Default: with --weights their model's own, else the training images'.",
        panel=DATA,
    )
    std: tuple[float, ...] | None = setting(None, "Standard deviation of each channel, given with --mean.", panel=DATA)
    shift: float = setting(
        1 / 16,
        "Largest random shift of images up to 96 pixels, as a fraction of their side; 0.125 is usual for long "
        "trainings.",
        panel=DATA,
    )
    val_fraction: float = setting(0.1, "Fraction of the training samples held out for validation.", panel=DATA)
    task: Literal["classification", "regression"] = setting(
        "classification", "classification, or regression (tables only).", panel=DATA
    )
    target: str | None = setting(
        None, "Column of a table to predict. Default: one called label, class, ..., or the last.", panel=DATA
    )
    max_length: int = setting(64, "Words of a sentence that are kept.", panel=DATA)
    workers: int | None = setting(
        None,
        "Processes that decode images too large for memory beside the training. Default: one less than the cores, at "
        "most 16. Results do not depend on it.",
        panel=DATA,
    )
    seed: int = setting(0, "Random seed of the validation split.")

    def __post_init__(self) -> None:
        require_choices(self)
        if self.image_size is not None and self.image_size < 8:
            raise ConfigError(f"image size is {self.image_size}; it must be at least 8 pixels")
        if self.image_size is not None and self.image_size > MOST_PIXELS:
            raise ConfigError(f"image size is {self.image_size}; it must be at most {MOST_PIXELS} pixels")
        try:
            colour_of(self.background)
        except ValueError as error:
            raise ConfigError(
                f"background is {self.background!r}; it must be the name of a colour, such as black, or #rrggbb"
            ) from error
        self._check_normalization()
        if not 0 < self.shift <= 0.5:
            raise ConfigError(
                f"shift is {self.shift}; it must be greater than 0 and at most 0.5 (for no shifts: `augment=none`)"
            )
        if not 0 <= self.randaugment <= 30:
            raise ConfigError(f"randaugment is {self.randaugment}; it must be between 0 (none) and 30")
        if not 0 < self.val_fraction < 1:
            raise ConfigError(f"val_fraction is {self.val_fraction}; it must lie between 0 and 1")
        if self.task == "regression" and not self._may_be_table:
            raise ConfigError(f"regression needs a table, FILE.csv; the data is {self.name!r}")
        if self.task == "regression" and self.balance_classes:
            raise ConfigError("`balance_classes` needs classes, and a regression has none; leave it out")
        if self.target is not None and not self._may_be_table:
            raise ConfigError(f"target is {self.target!r}, a column of a table; but the data is {self.name!r}")
        if self.image_root is not None and not self.is_table:
            raise ConfigError(
                f"image root is {self.image_root!r}, where the images that FILE.csv names are; but the data is "
                f"{self.name!r}"
            )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"data seed is {self.seed}; it must lie between 0 and 2**32 - 1")
        if self.workers is not None and not 0 <= self.workers <= MOST_WORKERS:
            raise ConfigError(
                f"workers is {self.workers}; it must be between 0 (none beside this one) and {MOST_WORKERS}"
            )
        if self.max_length < 1:
            raise ConfigError(f"max_length is {self.max_length}; it must be at least 1")

    def _check_normalization(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))  # lists, when read back from JSON
        if (self.mean is None) != (self.std is None):
            given, missing = ("mean", "std") if self.std is None else ("std", "mean")
            raise ConfigError(f"{given} is {getattr(self, given)}, without {missing}; give `mean` and `std` together")
        for name, low, high in (("mean", 0, 1), ("std", 1e-4, 10)):
            for number in getattr(self, name) or ():
                if not low <= number <= high:
                    raise ConfigError(
                        f"{name} is {number:g}; for pixels between 0 and 1 it lies between {low} and {high} (for those "
                        "between 0 and 255, divide by 255)"
                    )

    @property
    def is_table(self) -> bool:
        """Whether the data is a table in one file; a folder may have such a name, too."""
        name = self.name.lower()
        return name.endswith(".csv") or (name.endswith(TABLES) and not Path(self.name).is_dir())

    @property
    def _may_be_table(self) -> bool:
        """Whether the data is a table, or a path whose content is looked at when it is loaded."""
        may_be_path = bool({"/", os.sep, "."} & {*self.name}) or Path(self.name).is_dir()
        return self.is_table or self.name.startswith("hf:") or may_be_path
