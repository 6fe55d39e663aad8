"""Which kind of data a network takes by its name, so that another kind is refused with the network that takes it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

from lctprune.config.data import DataConfig
from lctprune.data.dataset import Data
from lctprune.data.load import is_table
from lctprune.data.tables.files import read_table
from lctprune.errors import ConfigError, DataError, LctpruneError
from lctprune.models.external import torchvision_names
from lctprune.models.names import TIMM

Kind = Literal["images", "a table", "sequences"]
OF_SEQUENCES, OF_TABLES = ("lstm", "gru", "transformer"), ("mlp",)
REMEDIES: dict[Kind, str] = {
    "images": "for images there are resnet18 and all others that lctprune models lists",
    "a table": "for a table there is mlp",
    "sequences": "for sequences there are lstm, gru and transformer",
}
FOLDER_OF_SENTENCES = "for sentences give a folder with train.tsv and test.tsv, files of lines sentence<TAB>label"


def input_kind(model: str) -> Kind | None:
    """Return the kind of data that a network takes; None for one of somebody else's, of which that is not known."""
    if model in OF_SEQUENCES:
        return "sequences"
    if model in OF_TABLES:
        return "a table"
    known = model in ("vgg-lct", *torchvision_names()) or model.startswith(TIMM)
    return "images" if known else None


def data_kind(data: Data) -> Kind:
    """Return the kind of a data set, by the shape of its samples."""
    if data.vocabulary or data.example.dim() == 3:
        return "sequences"
    return "images" if data.example.dim() == 4 else "a table"


def mismatch(model: str, kind: Kind, name: str) -> str:
    """Say that a network does not take data of a kind, and which one does; "" if it does, or may.

    Args:
        model: name of the network.
        kind: kind of the data.
        name: name of the data, for the message.
    """
    taken = input_kind(model)
    if taken in (None, kind):
        return ""
    return f"{model} takes {taken}, and {name} {'is' if kind == 'a table' else 'holds'} {kind}; {REMEDIES[kind]}"


def _of_table(model: str, name: str) -> str:
    """Say that a network does not take a table; one of sentences with labels is told how those are given."""
    text = mismatch(model, "a table", name)
    if text and input_kind(model) == "sequences" and _is_of_sentences(Path(name)):
        return text.replace(REMEDIES["a table"], FOLDER_OF_SENTENCES)
    return text


def _is_of_sentences(path: Path) -> bool:
    """Whether a table has two columns, of which one mostly holds several words."""
    with suppress(LctpruneError, OSError):
        table = read_table(path)
        if len(table.names) == 2:
            texts = zip(*(cells for _, cells in table.rows), strict=True)
            return any(2 * sum(" " in cell.strip() for cell in column) > len(column) for column in texts)
    return False


def require_kind(model: str, data: Data) -> None:
    """Refuse data of a kind that a network does not take.

    Raises:
        ConfigError: it does not take that; the message names one that does.
    """
    name = data.config.name if data.config else "the data"
    kind = data_kind(data)
    if text := _of_table(model, name) if kind == "a table" else mismatch(model, kind, name):
        raise ConfigError(text)


def refuse_table(model: str, config: DataConfig, error: DataError) -> None:
    """Refuse a table that cannot be loaded, and that the network would not take if it could: for the latter.

    Args:
        model: name of the network.
        config: settings of the data.
        error: why it cannot be loaded.

    Raises:
        ConfigError: the data is a table, and the network does not take tables.
    """
    text = ""
    with suppress(LctpruneError, OSError):  # the file may be missing, or no text
        text = _of_table(model, config.name) if is_table(config) else ""
    if text:
        raise ConfigError(text) from error
