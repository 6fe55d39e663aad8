"""The commands that look at networks without training them: models, inspect."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from lctprune.models.external import torchvision_names

Cli = Callable[..., Any]
HAS_TIMM = importlib.util.find_spec("timm") is not None


def test_models_lists_what_there_is(cli: Cli) -> None:
    document = cli("models", "--json").document
    assert {"resnet18", "vgg-lct", "lstm", "gru", "transformer", "mlp"} <= set(document["built-in"])
    assert document["torchvision"] == torchvision_names()
    assert len(document["torchvision"]) >= 80
    assert bool(document["timm"]) is HAS_TIMM
    plain = cli("models")
    assert plain.code == 0
    assert {"resnet18", "googlenet"} <= set(plain.out.splitlines())
    assert "timm/" not in plain.out  # more than a thousand: those that are asked for
    assert ("timm is not installed" in plain.err) is not HAS_TIMM


def test_models_by_a_part_of_their_name(cli: Cli) -> None:
    document = cli("models", "mobilenet", "--json").document
    assert document["built-in"] == []
    assert document["torchvision"] == ["mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"]
    plain = cli("models", "mobilenet").out
    assert "mobilenet_v2" in plain.splitlines()
    assert "resnet" not in plain
    assert cli("models", "lstm").out == "lstm\n"
    nothing = cli("models", "resnet81")
    assert (nothing.code, nothing.out) == (1, "")
    assert "no name contains 'resnet81'; near are resnet" in nothing.err
    near = cli("models", "resnt").err.strip().partition("near are ")[2].split(", ")
    assert near
    assert len(set(near)) == len(near)


def inspected(cli: Cli, *arguments: object) -> Any:
    document = cli("inspect", *arguments, "--json").document
    names = {
        "output_shape",
        "flops",
        "parameters",
        "activation_bytes",
        "critic_flops",
        "critic_parameters",
        "sent_bytes_per_step",
    }
    for group in document["groups"]:
        assert names <= group.keys()
        assert group["activation_bytes"] >= 0
    assert document["groups"][-1]["critic_flops"] == document["groups"][-1]["critic_parameters"] == 0
    return document


@pytest.mark.parametrize("name", ["lstm", "gru", "transformer"])
def test_inspect_of_sequences_of_words(name: str, cli: Cli) -> None:
    small = ("--vocabulary", 50, "--groups", 3, "--model-args", "layers=3,width=8", "--num-outputs", 2)
    short, long = (inspected(cli, name, "--steps", steps, *small) for steps in (5, 10))
    assert (short["input"], long["input"]) == ([1, 5], [1, 10])
    assert {"layer1", "layer2"} <= set(short["cuts"])
    assert [group["output_shape"] for group in short["groups"][:2]] == [[5, 8], [5, 8]]
    assert short["groups"][-1]["output_shape"] == [2]
    assert all(
        after["flops"] > before["flops"] > 0 for before, after in zip(short["groups"], long["groups"], strict=True)
    )
    assert [group["parameters"] for group in short["groups"]] == [group["parameters"] for group in long["groups"]]


def test_the_flops_of_an_lstm_by_hand(cli: Cli) -> None:
    document = inspected(
        cli,
        "lstm",
        "--features",
        3,
        "--steps",
        7,
        "--groups",
        2,
        "--model-args",
        "layers=2,width=8",
        "--num-outputs",
        5,
    )
    assert document["input"] == [1, 7, 3]
    layer, embed, head = 7 * 2 * 4 * 8 * (8 + 8), 7 * 2 * 3 * 8, 2 * 8 * 5
    assert sum(group["flops"] for group in document["groups"]) == embed + 2 * layer + head


def test_inspect_says_what_exits_cost_and_which_critics_are_smaller(cli: Cli) -> None:
    arguments = ("inspect", "mlp", "--features", 6, "--groups", 3, "--model-args", "width=16")
    document = cli(*arguments, "--json").document
    *exits, main = document["groups"]
    assert [cost["exit_flops"] < main["exit_flops"] for cost in exits] == [True, True]
    for index, cost in enumerate(exits):
        flops = sum(each["flops"] for each in document["groups"][: index + 1])
        assert cost["exit_flops"] == flops + cost["critic_flops"]
    assert document["critics"] == ["tail", "tail"]
    assert all(width < 1 for width in document["critic_widths"])
    result = cli(*arguments)
    assert all(f"Note: {note}." in result.err for note in document["notes"])
    assert f"{exits[0]['exit_flops'] / main['exit_flops']:.1%}" in result.out
    asked = cli(*arguments, "--critic", "tail")
    assert "exit 1 saves nothing: with its critic (tail)" in asked.err


def test_inspect_of_a_table(cli: Cli) -> None:
    document = inspected(cli, "mlp", "--features", 6, "--groups", 2, "--model-args", "layers=2,width=8")
    assert document["input"] == [1, 6]
    assert sum(group["parameters"] for group in document["groups"]) == 7 * 8 + 9 * 8 + 9 * 10


def test_auxiliary_heads_are_noted_on_stderr(cli: Cli) -> None:
    result = cli("inspect", "googlenet", "--image-size", 64, "--groups", 2, "--json")
    assert len(result.document["groups"]) == 2
    assert result.err.startswith("Note: ")
    assert "aux" in result.err
    assert result.err.count("\n") == 1


def test_the_balance_changes_the_cuts(cli: Cli) -> None:
    groups = {
        kind: [
            group["last"]
            for group in inspected(cli, "vgg-lct", "--image-size", 16, "--groups", 3, "--balance", kind)["groups"]
        ]
        for kind in ("flops", "memory")
    }
    assert groups["flops"] != groups["memory"]
    small, large = (
        inspected(cli, "vgg-lct", "--image-size", 16, "--balance", "memory", "--batch-size", size)["groups"]
        for size in (1, 1024)
    )
    assert [group["last"] for group in small] != [group["last"] for group in large]
    assert len(inspected(cli, "mlp", "--features", 4, "--groups", 2, "--balance", "time")["groups"]) == 2


def test_the_table_is_complete(cli: Cli) -> None:
    result = cli("inspect", "gru", "--vocabulary", 30, "--steps", 4, "--model-args", "layers=2,width=8", "--groups", 2)
    assert result.code == 0
    for word in (
        "from",
        "to",
        "FLOPs",
        "params",
        "activations",
        "MB",
        "critic FLOPs",
        "possible cut points, for --split-at: layer1",
    ):
        assert word in result.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("resnet", "--balance", "luck"), 2, "memory"),
        (("lstm",), 2, "vocabulary"),
        (("lstm", "--vocabulary", "0"), 2, "at least 1"),
        (("lstm", "--vocabulary", "9", "--features", "3"), 2, "exactly one"),
        (("mlp", "--features", "3", "--model-args", "depth=2"), 2, "does not take depth"),
        (("mlp", "--features", "3", "--model-args", "width=inf"), 2, "a model argument is inf; it must be a finite"),
        (("mobilnet_v2",), 2, "did you mean mobilenet_v2"),
        (("timm/nosuch",), 2, "timm/nosuch"),
        (("resnet", "--critic", "linear", "--critic-depth", "2"), 2, "does not apply"),
        (("resnet", "--critic", "linear", "--critic-width", "2"), 2, "does not apply"),
        (("resnet", "--critic-width", "1,1"), 2, "critic width has 2 numbers; give 1, or 3"),
        (("resnet", "--critic-width", "wide"), 2, "numbers, as 0.5 or 1,1,0.5"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_bad_input_gets_one_line(arguments: tuple[str, ...], code: int, words: str, cli: Cli) -> None:
    result = cli("inspect", *arguments)
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert words in result.err


@pytest.mark.slow
def test_inspect_says_what_decoupled_training_sends(cli: Cli) -> None:
    """Behind layer1, layer2 and layer3 of a ResNet-18 at 32 pixels: 64 x 32 x 32, 128 x 16 x 16, 256 x 8 x 8."""

    def sent(*arguments: object) -> list[int]:
        cut = ("--split-at", "layer1,layer2,layer3")
        document = cli("inspect", "resnet18", *cut, *arguments, "--json").document
        return [group["sent_bytes_per_step"] for group in document["groups"]]

    maps = [64 * 32 * 32, 128 * 16 * 16, 256 * 8 * 8, 0]
    assert sent("--batch-size", 1, "--precision", "fp32") == [4 * size for size in maps]
    assert sent("--batch-size", 1, "--precision", "bf16") == [2 * size for size in maps]
    assert sent("--batch-size", 10, "--precision", "bf16") == [20 * size for size in maps]
    said = [cli("inspect", "resnet18", "--batch-size", 10, "--precision", each).out for each in ("fp32", "bf16")]
    assert "440 bytes come back" in said[0]  # a loss and 10 outputs a sample
    assert "240 bytes come back" in said[1]
    assert "come back" not in cli("inspect", "resnet18", "--groups", 1).out
