"""Build sequence networks (LSTM, GRU and transformer classifiers), and a plain MLP for vectors.

Each is a chain of layers with one tensor between them (see `sequence_layers`), so that it can be traced and cut.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from torch import nn

from lctprune.errors import ConfigError
from lctprune.models.sequence_layers import RecurrentLayer, StepEmbedding, TokenEmbedding, TransformerLayer, at_least
from lctprune.pooling import NormalizedPooling, Pooling


def lstm(
    *,
    num_outputs: int,
    vocabulary: int | None = None,
    features: int | None = None,
    layers: int = 4,
    width: int = 128,
    dropout: float = 0.2,
) -> nn.Sequential:
    """Build an LSTM classifier, whose last feature vector is the mean over time.

    Args:
        num_outputs: width of the output.
        vocabulary: number of token ids, for int64 input [batch, time]; id 0 is padding.
        features: width of a step, for input [batch, time, features]; replaces `vocabulary`.
        layers: number of layers.
        width: number of features of each layer.
        dropout: fraction of the features that are dropped after each layer in training.

    Returns:
        Modules named `embed`, `layer1` and so on, and `head`.

    Raises:
        ConfigError: a value is out of range, or both or neither of `vocabulary` and `features` are given.
    """
    return _recurrent("lstm", num_outputs, vocabulary, features, layers, width, dropout)


def gru(
    *,
    num_outputs: int,
    vocabulary: int | None = None,
    features: int | None = None,
    layers: int = 4,
    width: int = 128,
    dropout: float = 0.2,
) -> nn.Sequential:
    """Build a classifier like that of `lstm`, with gated recurrent units."""
    return _recurrent("gru", num_outputs, vocabulary, features, layers, width, dropout)


def transformer(
    *,
    num_outputs: int,
    vocabulary: int | None = None,
    features: int | None = None,
    layers: int = 4,
    width: int = 128,
    heads: int = 4,
    dropout: float = 0.1,
) -> nn.Sequential:
    """Build a transformer classifier with sinusoidal positions; arguments not named here are those of `lstm`.

    Each encoder layer has `heads` heads and 4 * `width` hidden units; `width` must be a multiple of `heads`.
    """
    _check(num_outputs, layers, width, dropout)
    embed = _embedding(vocabulary, features, width, dropout, positions=True)
    stack = [TransformerLayer(width, heads, 4 * width, dropout) for _ in range(layers)]
    return _named(embed, stack, nn.Sequential(NormalizedPooling(width, "mean"), nn.Linear(width, num_outputs)))


def mlp(*, num_outputs: int, features: int, layers: int = 4, width: int = 256, dropout: float = 0.0) -> nn.Sequential:
    """Build linear layers with ReLU for vectors, [batch, features], named as those of `lstm`, but without `embed`."""
    _check(num_outputs, layers, width, dropout)
    at_least(1, features=features)
    sizes = [features, *[width] * (layers - 1)]
    stack = [nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout)) for size in sizes]
    return _named(None, stack, nn.Linear(width, num_outputs))


def _recurrent(
    cell: str, num_outputs: int, vocabulary: int | None, features: int | None, layers: int, width: int, dropout: float
) -> nn.Sequential:
    _check(num_outputs, layers, width, dropout)
    embed = _embedding(vocabulary, features, width, dropout, positions=False)
    stack = [RecurrentLayer(cell, width, width, dropout) for _ in range(layers)]
    return _named(embed, stack, nn.Sequential(Pooling("mean"), nn.Linear(width, num_outputs)))


def _embedding(
    vocabulary: int | None, features: int | None, width: int, dropout: float, *, positions: bool
) -> nn.Module:
    if vocabulary is not None and features is None:
        at_least(2, vocabulary=vocabulary)  # padding and one token
        return TokenEmbedding(vocabulary, width, dropout, positions)
    if features is not None and vocabulary is None:
        at_least(1, features=features)
        return StepEmbedding(features, width, dropout, positions)
    raise ConfigError(
        f"vocabulary is {vocabulary} and features is {features}; give exactly one, vocabulary for token ids or "
        "features for numbers: this network takes sequences or tables, not images"
    )


def _named(embed: nn.Module | None, stack: Iterable[nn.Module], classifier: nn.Module) -> nn.Sequential:
    modules = OrderedDict[str, nn.Module]() if embed is None else OrderedDict(embed=embed)
    modules.update((f"layer{number}", layer) for number, layer in enumerate(stack, 1))
    modules["head"] = classifier
    return nn.Sequential(modules)


def _check(num_outputs: int, layers: int, width: int, dropout: float) -> None:
    at_least(1, num_outputs=num_outputs, layers=layers, width=width)
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout is {dropout}; it must be at least 0 and less than 1")
