"""Load a data set by its name or from files: one function for all kinds, and where the files of a data set are.

Each kind has a module of its own: built-in data (`builtin`), image folders (`image_folder`), sentences (`sentences`)
and tables (`tables`). The validation split is cut from train by a seed, balanced by class.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lctprune.config.data import TABLES, DataConfig
from lctprune.config.images import ImagePreprocessing
from lctprune.config.table import TableEncoding
from lctprune.data.builtin import EMBEDDED, NAMED, TORCHVISION, builtin_data
from lctprune.data.dataset import Data, Statistics
from lctprune.data.images.folder import image_data
from lctprune.data.images.labels import lists_images
from lctprune.data.packed.hub import PREFIX as HUB
from lctprune.data.packed.hub import fetched
from lctprune.data.packed.kinds import packed_kind
from lctprune.data.packed.listing import list_arrow, list_tars
from lctprune.data.packed.shards import KINDS, Shards, find_shards, kind_of
from lctprune.data.preprocessing import Normalization
from lctprune.data.tables.splits import TRAIN_FILE as TRAIN_TABLE
from lctprune.data.tables.splits import holds_tables
from lctprune.data.tables.table import table_data
from lctprune.data.texts.sentences import TRAIN_FILE, packed_text_data, text_data
from lctprune.errors import ConfigError, UnknownDataError
from lctprune.utils.files import near_miss
from lctprune.utils.names import require_utf8


def load_data(
    config: DataConfig | str | Path,
    *,
    normalization: Normalization | None = None,
    target_normalization: Normalization | None = None,
    preprocessing: ImagePreprocessing | None = None,
    tokenizer: str | None = None,
    columns: Sequence[str] | None = None,
    encoding: TableEncoding | None = None,
    most: int | None = None,
    download: bool = False,
    **settings: Any,
) -> Data:
    """Load a data set by name, or from a folder of images or sentences, or from a table.

    Args:
        config: settings of the data, with its name or path; or only that, for default settings.
        normalization: mean and deviation of each channel of the pixels, or of each column of a table; by default those
            of the train split (of image files too large for memory, ImageNet's).
        target_normalization: mean and deviation of the target of a regression; by default those of the train split.
        preprocessing: steps from an image file to pixels, such as those of other data (`data.preprocessing`); by
            default chosen by the settings and a sample of the training images.
        tokenizer: name of the rule that splits text into tokens; by default the present one of `lctprune.data.tokens`.
        columns: names of the input columns by which a run knows a table.
        encoding: encoding by which a run knows a table, such as that of other data (`data.encoding`).
        most: largest side that is chosen for images in files where the settings give none; by default 224.
        download: whether torchvision's data sets may be downloaded.
        **settings: settings of the data, as fields of `DataConfig`: `load_data("photos", image_size=64)`.

    Raises:
        DataError: the data is missing, malformed or too small.
        ConfigError: the path of the data is not UTF-8, or there is no such setting.
    """
    config = _configured(config, settings)
    known = None if columns is None else tuple(columns)
    statistics = Statistics(normalization, target_normalization, preprocessing, tokenizer, known, encoding)
    data = _loaded(config, statistics, most=most, download=download)
    return dataclasses.replace(data, train=data.train.balanced()) if config.balance_classes else data


def _configured(config: DataConfig | str | Path, settings: Mapping[str, Any]) -> DataConfig:
    known = [each.name for each in dataclasses.fields(DataConfig) if each.name != "name"]
    if unknown := [name for name in settings if name not in known]:
        raise ConfigError(f"load_data has no setting {', '.join(unknown)}; settings of data are {', '.join(known)}")
    given = config if isinstance(config, DataConfig) else DataConfig(name=str(config))
    return dataclasses.replace(given, **settings)


def _loaded(config: DataConfig, statistics: Statistics, *, most: int | None, download: bool) -> Data:
    normalization, preprocessing = statistics.normalization, statistics.preprocessing
    require_utf8(config.data_dir if config.name in TORCHVISION else config.name, "the data's path")
    require_utf8(config.image_root or "", "the images' path")
    if config.name == "digits-rows":
        _require_no_normalization(config, "sequences")
    if config.name in NAMED:
        return builtin_data(config, normalization, preprocessing, download=download)
    if is_table(config):
        return _table(config, statistics)
    if config.is_table:
        return image_data(config, normalization, preprocessing, most=most)
    root = Path(config.name)
    shards = None if _holds_sentences(root) else find_shards(_place_of(config.name))
    if shards is not None:
        return _packed_data(config, shards, statistics, most=most)
    if not root.is_dir():
        known_names = ", ".join(NAMED)
        raise UnknownDataError(
            f"data {config.name!r} is neither a folder, a table ({', '.join(TABLES)}), a packed file "
            f"({', '.join(KINDS)}), nor a known data set ({known_names}){near_miss(root)}"
        )
    _require_no_table(config)
    if _holds_sentences(root):
        _require_no_normalization(config, "sentences")
        return text_data(config, tokenizer=statistics.tokenizer)
    return image_data(config, normalization, preprocessing, most=most)


def is_table(config: DataConfig) -> bool:
    """Whether the data is a table, or a folder of tables for splits, that does not list images."""
    return not lists_images(config) if config.is_table else _is_folder_of_tables(Path(config.name))


def _packed_data(config: DataConfig, shards: Shards, statistics: Statistics, *, most: int | None) -> Data:
    """Load images, texts or a table from a few large files."""
    found = None if shards.kind == "tar" else packed_kind(shards, config.target, config.task)
    if found is None or found.kind == "images":
        if config.task == "regression":
            raise ConfigError(f"regression needs a table, and {config.name} is none; leave out `task=regression`")
        listing = list_tars(shards, config) if found is None else list_arrow(shards, found, config)
        return image_data(config, statistics.normalization, statistics.preprocessing, most=most, listing=listing)
    if found.kind == "texts":
        _require_no_normalization(config, "texts")
        return packed_text_data(config, shards, found, tokenizer=statistics.tokenizer)
    return _table(config, statistics, shards)


def _table(config: DataConfig, statistics: Statistics, shards: Shards | None = None) -> Data:
    _require_no_normalization(config, "a table, whose columns have their own")
    return table_data(
        config,
        statistics.normalization,
        statistics.target_normalization,
        known=statistics.columns,
        encoding=statistics.encoding,
        shards=shards,
    )


def _place_of(name: str) -> Path:
    return fetched(name) if name.startswith(HUB) else Path(name)


def _holds_sentences(root: Path) -> bool:
    return (root / TRAIN_FILE).is_file()


def _is_folder_of_tables(root: Path) -> bool:
    """Whether a folder has tables for splits, and they do not list images."""
    if _holds_sentences(root) or not holds_tables(root):
        return False
    return not lists_images(DataConfig(name=str(root / TRAIN_TABLE)))


def _require_no_table(config: DataConfig) -> None:
    """Refuse what is for tables only.

    Raises:
        ConfigError: such an option is given.
    """
    data = f"the data is {config.name}, which has no {TRAIN_TABLE}"
    if config.task == "regression":
        raise ConfigError(f"regression needs a table, FILE.csv; {data}")
    if config.target is not None:
        raise ConfigError(f"target is {config.target!r}, a column of a table; but {data}")


def _require_no_normalization(config: DataConfig, what: str) -> None:
    if config.randaugment:
        raise ConfigError(f"`randaugment` is for images, and {config.name} is {what}; leave it out")
    if config.mean is not None:
        raise ConfigError(f"`mean` and `std` are for images, and {config.name} is {what}; leave them out")


def location(config: DataConfig) -> Path | None:
    """Return the folder or file that holds the data; None for data that comes with lctprune."""
    if config.name in EMBEDDED or config.name.startswith(HUB):
        return None
    return Path(config.data_dir if config.name in TORCHVISION else config.name)


def relocated(config: DataConfig, place: str | Path) -> DataConfig:
    """Return the settings for files that have moved to another place.

    Raises:
        ConfigError: the data has no files.
    """
    if config.name in EMBEDDED:
        raise ConfigError(f"{config.name} comes with lctprune and is not read from {place}; leave out `data_path`")
    if str(place).startswith(HUB):
        return dataclasses.replace(config, name=str(place))
    place = Path(place).absolute()
    if config.name in TORCHVISION:
        return dataclasses.replace(config, data_dir=str(place))
    if (config.is_table or (kind_of(config.name) and not Path(config.name).is_dir())) and place.is_dir():
        table = place / Path(config.name).name
        if config.is_table and not table.exists() and lists_images(config):  # only the images have moved
            return dataclasses.replace(config, image_root=str(place))
        place = table
    return dataclasses.replace(config, name=str(place), image_root=_relocated_root(config, place))


def _relocated_root(config: DataConfig, place: Path) -> str | None:
    """Return the folder of the images of a CSV file that has moved: moved with the file, or else where it was."""
    if config.image_root is None:
        return None
    moved = place.parent / os.path.relpath(config.image_root, Path(config.name).parent)
    return os.path.normpath(moved) if moved.is_dir() else config.image_root
