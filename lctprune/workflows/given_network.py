"""Look at the network that a session is given: is the data like its own, may it have seen it, and how good is it?"""

from __future__ import annotations

import dataclasses
import math
import warnings

from torch import nn

from lctprune.config.data import DataConfig
from lctprune.config.given import Given
from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig
from lctprune.data.builtin import NAMED
from lctprune.data.dataset import Data, recorded_statistics
from lctprune.data.load import load_data
from lctprune.errors import ConfigError, DataWarning, NetworkWarning
from lctprune.measure.scores import ExitScores, score_networks
from lctprune.models.own_images import OwnImages
from lctprune.network import LocalCriticNetwork
from lctprune.runs import Run
from lctprune.utils.modules import held_on
from lctprune.workflows.model_card import known
from lctprune.workflows.session_settings import SessionSettings

CHANCE_ERRORS, CHANCE_FACTOR = 2, 1.5  # standard errors, and times the chance level, up to which scores may be chance


def measure_given(network: LocalCriticNetwork, data: Data, config: TrainConfig) -> Given:
    """Score the main network on the validation split, before it is trained.

    Warns:
        NetworkWarning: it is no better than chance, though its classifier was trained.
    """
    main = nn.Sequential(*network.groups)
    with held_on(main, config.resolved().device):
        scores = score_networks([main], data.val, metric=config.metric)
    if not network.new_parameters and (reason := _chance(scores)):
        images = data.normalization and data.preprocessing
        checks = ["the order of the classes" if data.classes else "the order and units of the columns"]
        if images and data.normalization:
            numbers = [",".join(f"{each:.3g}" for each in values) for values in data.normalization]
            checks.append(f"the normalisation (now mean {numbers[0]}, std {numbers[1]}; `mean` and `std` give another)")
            checks.append(f"the size of the images (now {images.size}; `image_size` gives another)")
        text = f"the given network {reason} on the validation split; check {', '.join(checks)}"
        warnings.warn(text, NetworkWarning, stacklevel=4)
    return Given(
        metric=scores.metric,
        score=known(scores.score[0]),
        accuracy=known(scores.accuracy[0]),
        loss=scores.loss[0],
        samples=scores.samples,
        new=network.new_parameters,
    )


def _chance(scores: ExitScores) -> str | None:
    """Say what shows that a network guesses; None if it does not. Classes of different sizes count alike."""
    recalls = [each for each in scores.recall[0] if each is not None] if scores.recall else []
    if len(recalls) > 1:
        chance, mean = 1 / len(recalls), sum(recalls) / len(recalls)
        error = math.sqrt(chance * (1 - chance) / scores.samples)
        if mean <= min(chance + CHANCE_ERRORS * error, CHANCE_FACTOR * chance):
            return f"is no better than chance (mean recall {mean:.1%} of {len(recalls)} classes)"
    if scores.metric == "R2" and scores.score[0] <= 0:
        return f"is no better than predicting the mean (R2 {scores.score[0]:.2f})"
    return None


def warn_of_seen_samples(network: LocalCriticNetwork, data: Data, given: Run | None) -> None:
    """Warn if the given network may have been trained on samples of the validation split.

    Warns:
        DataWarning: the validation split was cut from training samples, and the network's classifier was trained on
            such samples, by something other than a run with the same split.
    """
    if not data.val_from_train or network.new_parameters or data.config is None:
        return
    recorded = given.config.data if given else None
    if given and recorded and not list(given.differences(data, "fingerprint", "samples")):
        now, was = data.config, recorded.config
        if (now.seed, now.val_fraction) == (was.seed, was.val_fraction):
            return
    remedy = "judge it by the test split"
    if data.config.name not in NAMED and not data.columns:
        remedy = f"give samples it has not seen as {'val.tsv' if data.vocabulary else 'val/, beside test/'}"
    warnings.warn(
        "the validation split is cut from the training samples, which the given network may have been trained on: its "
        f"accuracy there may be too high; {remedy}",
        DataWarning,
        stacklevel=4,
    )


def note_on_size(model: str, data: Data, own: OwnImages, config: DataConfig) -> None:
    """Say that images are smaller than those that the weights were trained on: they are not enlarged unasked."""
    size = data.preprocessing.size if data.preprocessing else None
    if own.size and size and size < own.size and config.image_size is None:
        warnings.warn(
            f"images keep their {size} pixels, where {model} was trained on {own.size}; `image_size={own.size}` "
            "enlarges them",
            DataWarning,
            stacklevel=4,
        )


def in_range_of(given: Run, data: Data, config: DataConfig) -> Data:
    """Read images of more than 8 bits in the range of the run whose weights are taken, if it holds their values."""
    was = recorded_statistics(given.config.data).preprocessing
    if not (was and was.values and data.preprocessing and data.preprocessing.values):
        return data
    values = data.preprocessing.values
    if was.values == values:
        return data
    if was.values.low <= values.low and values.high <= was.values.high:
        preprocessing = dataclasses.replace(data.preprocessing, values=was.values)
        return load_data(config, normalization=data.normalization, preprocessing=preprocessing)
    message = f"{given.path} was trained on images with values from {was.values}; these are read as {values}"
    warnings.warn(message, DataWarning, stacklevel=3)
    return data


def other_arguments(given: Run | None, config: NetworkConfig) -> str:
    """Name the arguments that the network of a given run was built with, where others are asked for; else ""."""
    recipe = given and given.config.network
    if given is None or not recipe or recipe.model != config.model or recipe.model_args == config.model_args:
        return ""
    arguments = ",".join(f"{name}={value}" for name, value in recipe.model_args.items())
    return f"; {given.path} was trained {f'with `model_args={arguments}`' if arguments else 'without `model_args`'}"


def require_alike(given: Run, data: Data, settings: SessionSettings) -> None:
    """Refuse data whose inputs mean something else than those of the run whose weights are taken.

    Other classes of the same number keep the run's classifier: they get a warning, or are refused if that is frozen.

    Raises:
        ConfigError: the data differs.
    """
    others = [field for field, *_ in given.differences(data, "vocabulary", "columns")]
    if given.config.data is None and data.vocabulary:
        others = ["vocabulary"]  # the run did not record its own
    if others:
        raise ConfigError(
            f"{given.path} was trained with other {others[0]} than {settings.data.name} has; give the same data"
        )
    for _, was, now in given.differences(data, "classes"):
        recorded = given.config.data
        if recorded and len(recorded.classes) == len(data.classes):  # else the classifier is new, and a warning says so
            if settings.training.freeze_main:
                raise ConfigError(
                    f"{given.path} was trained on other classes ({was}, not {now}), which `freeze_main` keeps; leave "
                    "it out"
                )
            warnings.warn(f"{given.path} was trained on other classes: {was}, not {now}", NetworkWarning, stacklevel=3)
