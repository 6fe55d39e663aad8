"""Compare the settings with which a run is resumed with those that it was begun with."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from lctprune.config.training import Method, TrainConfig
from lctprune.data.builtin import NAMED
from lctprune.errors import RunError
from lctprune.runs import Run


def require_equal_settings(run: Run, settings: Mapping[str, Any]) -> None:
    """Refuse to resume a run with other settings.

    Args:
        run: run that is resumed.
        settings: settings now, from `run_settings`; what need not be equal is taken from the run.

    Raises:
        RunError: a setting differs; the message names it.
    """
    recorded = run.config.completed()
    _forget_location(settings, recorded)
    if "metric" not in run.config.to_dict()["training"]:  # an earlier version's
        settings["training"]["metric"] = recorded["training"]["metric"]
    if "keep" not in run.config.to_dict()["training"]:
        settings["training"]["keep"] = recorded["training"]["keep"]
    if is_of_earlier_rates(run):
        recorded["training"] |= {"critic_lr": recorded["training"]["lr"], "batch_norm": "train"}
    for part, values in settings.items():
        if values != recorded[part]:
            changed = list(_changes(recorded[part] or {}, values or {}))
            if part == "training" and [change.split()[0] for change in changed] == ["epochs"]:
                more = values["epochs"] > run.epochs_done
                longer = run.command("resume", *(("--epochs", str(values["epochs"])) if more else ()))
                raise RunError(f"{run.path} was begun with another training ({changed[0]}); to go on: {longer}")
            if changed or not (values and recorded[part]):  # else only fields differ that were not recorded then
                raise RunError(
                    f"{run.path} was begun with another {part} ({', '.join(changed) or 'made by hand'}); "
                    "resume with the same settings"
                )


def method_to_train_by(config: TrainConfig, run: Run | None, processes: int) -> Method:
    """Return the method of a training: if `auto`, that of the run that is resumed, or else as `method_in` decides."""
    if config.method == "auto" and run is not None:
        return run.config.training.method_in(processes)
    return config.method_in(processes)


def is_of_earlier_rates(run: Run) -> bool:
    """Tell whether a run is of an earlier version, which had one rate for new and trained parts."""
    return "critic_lr" not in run.config.to_dict()["training"]


def _forget_location(settings: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
    """Take what changes no result as it was recorded: where the files of the data lie, and how many processes read."""
    if settings["data"] and recorded["data"]:
        now, was = settings["data"]["config"], recorded["data"]["config"]
        now["data_dir"] = was.get("data_dir", now["data_dir"])
        now["workers"] = was.get("workers")
        if now["name"] not in NAMED and was["name"] not in NAMED:
            now["name"] = was["name"]  # hashes show whether it is other data


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Describe each setting that differs, down to settings within settings."""
    for key in sorted(before.keys() | now.keys()):
        was, value = before.get(key), now.get(key)
        if isinstance(was, Mapping) and isinstance(value, Mapping):
            yield from _changes(was, value)
        elif key == "critic_lr" and (was, value) == (before.get("lr"), now.get("lr")):
            continue  # which follows the rate that was given
        elif was != value:
            yield textwrap.shorten(f"{key} was {was!r}, is {value!r}", 100)
