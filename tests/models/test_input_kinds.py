"""Data of a kind that a network does not take is refused in one line that names a network which takes it."""

from __future__ import annotations

from pathlib import Path

import pytest

import lctprune as lct
from lctprune.models.input_kinds import require_kind
from lctprune.workflows.session import prepare
from lctprune.workflows.session_settings import SessionSettings


def settings(model: str, data: Path | str) -> SessionSettings:
    return SessionSettings(
        network=lct.NetworkConfig(model=model), data=lct.DataConfig(name=str(data)), training=lct.TrainConfig(epochs=1)
    )


@pytest.mark.filterwarnings("ignore:.* is predicted")
@pytest.mark.parametrize("model", ["resnet18", "vgg-lct", "mobilenet_v2", "timm/resnet10t", "lstm"])
@pytest.mark.parametrize("is_number", [True, False])
def test_a_table_is_for_mlp(model: str, is_number: bool, tmp_path: Path) -> None:
    path = tmp_path / "houses.csv"
    rows = [f"{row % 7},{row % 3},{1000 + 17 * row if is_number else 'ab'[row % 2]}" for row in range(60)]
    path.write_text("area,rooms,price\n" + "\n".join(rows) + "\n")
    with pytest.raises(lct.ConfigError) as caught:
        prepare(settings(model, path))
    taken = "sequences" if model == "lstm" else "images"
    assert str(caught.value) == f"{model} takes {taken}, and {path} is a table; for a table there is mlp"


@pytest.mark.filterwarnings("ignore:.* is predicted")
def test_a_table_of_sentences_is_told_how_sentences_are_given(tmp_path: Path) -> None:
    path = tmp_path / "reviews.tsv"
    for count in (40, 4):  # sentences of their own, which no table has, and few that repeat, which are categories
        path.write_text("".join(f"film number {row % count} was seen\t{'ab'[row % 2]}\n" for row in range(40)))
        with pytest.raises(lct.ConfigError, match=r"is a table; for sentences give a folder with train.tsv and test"):
            prepare(settings("gru", path))


@pytest.mark.parametrize(
    ("model", "data", "named"),
    [("mlp", "digits", "resnet18"), ("resnet18", "digits-rows", "lstm"), ("gru", "digits", "resnet18")],
)
def test_another_kind_names_the_network_that_takes_it(model: str, data: str, named: str) -> None:
    with pytest.raises(lct.ConfigError, match=rf"{model} takes .* and {data} holds .*; for .* {named}"):
        require_kind(model, lct.load_data(data))


def test_a_network_of_somebody_else_may_take_anything() -> None:
    require_kind("my_networks:build", lct.load_data("digits-rows"))
