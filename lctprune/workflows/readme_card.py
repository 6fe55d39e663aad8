"""README.md beside exported files: the model card for people, by the conventions of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from lctprune.config.metric import score_text
from lctprune.config.run import RunConfig
from lctprune.measure.units import COSTS, amount
from lctprune.utils.files import write_atomically
from lctprune.utils.names import visible
from lctprune.utils.wording import counted
from lctprune.workflows.model_card import MODEL_CARD

README = "README.md"
MARK = "<!-- Written by lctprune from model.json. Remove this line, and no later export replaces the file. -->"
MOST_CLASSES = 20  # that are named
TASKS = {("image", True): "image-classification", ("text", True): "text-classification"} | {
    ("table", True): "tabular-classification",
    ("table", False): "tabular-regression",
}


def write_readme(folder: Path, document: Mapping[str, Any], config: RunConfig) -> None:
    """Write README.md into a folder of exported files; one that somebody else has written stays.

    Args:
        folder: folder of the files.
        document: content of the model.json in it.
        config: configuration of the run that the network comes from.
    """
    path = folder / README
    if path.exists() and MARK not in path.read_text(errors="replace"):
        return
    write_atomically(path, readme_text(document, config).encode())


def readme_text(document: Mapping[str, Any], config: RunConfig) -> str:
    """Return the text of a model card: a header in YAML, and what it is, was measured to be and costs.

    Args:
        document: content of a model.json.
        config: configuration of the run that the network comes from.
    """
    classes, name = list(document["classes"]), _text(f"{document['model']}, {_which(document)}")
    kind, data = _kind(document), _data_name(config)
    measured = list(_measured(document))
    task = TASKS.get((kind, bool(classes)))
    header = {
        "library_name": "lctprune",
        "tags": ["lctprune", *_formats(document), *([] if classes else ["regression"])],
        **({"pipeline_tag": task} if task else {}),
        "metrics": list(dict.fromkeys(metric for *_, metric, _, _ in measured)),
        "model-index": [{"name": name, "results": _results(measured, task or kind, data)}],
    }
    does = f"tells {len(classes):,} classes apart" if classes else "predicts numbers"
    parts = [
        f"---\n{_yaml(header)}---",
        MARK,
        f"# {name}",
        f"A network that {does}, taken from the run {_text(document['trained_with']['run'])} of lctprune "
        "([local critic training](https://arxiv.org/abs/2102.01963)). How to feed it, for programs: "
        f"`{MODEL_CARD}`.",
        "## Intended use",
        f"For {kind} inputs like those of {_text(data)}, prepared as below. How good it is on others was not measured: "
        "measure that before relying on it. Nothing is known of bias beyond the data's own. "
        "Whoever publishes it chooses a license that the data and any initial weights allow.",
        *([f"Classes: {_named(classes)}."] if classes else []),
        f"Input: {_input(document)}. Output: {_text(document['output']['meaning'])}.",
        "## Data",
        _data(config),
        "## Metrics",
        _table(
            ["network", "split", "samples", "metric", "value"],
            [
                [_text(who), split, f"{samples:,}", metric, score_text(value, metric)]
                for who, split, metric, value, samples in measured
            ],
        ),
        "Networks are chosen on the validation split; the test split is read for the chosen one only.",
        *_costs(document),
        "## Files and hardware",
        _files(document),
        _made(document, config),
    ]
    return "\n\n".join(parts) + "\n"


def _which(document: Mapping[str, Any]) -> str:
    """Name the network: the exit, or the exits that leave early or answer together."""
    if "exits" not in document:
        chosen = document["validation"]
        return f"{chosen['name']}{'' if chosen['precision'] == 'float32' else ', ' + chosen['precision']}"
    names = " + ".join(each["name"] for each in document["exits"])
    return f"{'progressive' if 'goal' in document else 'ensemble'}: {names}"


def _kind(document: Mapping[str, Any]) -> str:
    taken = document["input"] or {"shape": []}
    if "vocabulary" in taken:
        return "text"
    return {4: "image", 3: "sequence", 2: "table"}.get(len(taken["shape"]), "tensor")


def _data_name(config: RunConfig) -> str:
    return PurePath(config.data.config.name).name if config.data else "data made in a program"


def _measured(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str, float, int]]:
    """List network, split, metric, score and number of samples of what was measured."""
    main: Mapping[str, Any] = document.get("main_network", {})
    for split in ("validation", "test"):
        key = "checked_on" if split == "validation" and "checked_on" in document else split
        for who, of in (("this network", document.get(key)), ("main network", main.get(split))):
            found: Mapping[str, Any] = of or {}
            if (score := found.get("score", found.get("accuracy"))) is not None:
                yield who, split, found.get("metric", "accuracy"), score, found["samples"]
            for name, each in found.get("exit_accuracies", {}).items():
                yield f"{name} alone", split, "accuracy", each, found["samples"]


def _results(measured: Sequence[tuple[str, str, str, float, int]], task: str, data: str) -> list[dict[str, Any]]:
    return [
        {
            "task": {"type": task},
            "dataset": {"name": data, "type": data, "split": split},
            "metrics": [{"type": metric, "value": score}],
        }
        for who, split, metric, score, _ in measured
        if who == "this network"
    ]


def _formats(document: Mapping[str, Any]) -> list[str]:
    files = document.get("files") or [document]
    return list(dict.fromkeys(str(each["format"]) for each in files))


def _yaml(value: Mapping[str, Any], indent: str = "") -> str:
    """Write plain values as YAML; texts stand in quotes as JSON has them, which YAML reads."""
    lines = ""
    for name, each in value.items():
        if isinstance(each, Mapping):
            lines += f"{indent}{name}:\n{_yaml(each, indent + '  ')}"
        elif isinstance(each, list):
            lines += f"{indent}{name}:{'' if each else ' []'}\n" + "".join(_item(one, indent) for one in each)
        else:
            lines += f"{indent}{name}: {json.dumps(each)}\n"
    return lines


def _item(value: Any, indent: str) -> str:
    if isinstance(value, Mapping):
        return f"{indent}- {_yaml(value, indent + '  ').lstrip()}"
    return f"{indent}- {json.dumps(value)}\n"


def _text(value: object) -> str:
    """Return a text that Markdown shows as it is."""
    return "".join(f"\\{each}" if each in "\\`*_[]<>|#" else each for each in visible(str(value)))


def _named(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - MOST_CLASSES:,} more" if len(classes) > MOST_CLASSES else ""
    return ", ".join(map(_text, classes[:MOST_CLASSES])) + more


def _input(document: Mapping[str, Any]) -> str:
    taken = document["input"]
    if taken is None:
        return "as the program that trained it makes it"
    return f"{taken['dtype']} [{', '.join(map(str, taken['shape']))}]: {_text(taken['preprocessing'])}"


def _data(config: RunConfig) -> str:
    data, training = config.data, config.training
    trained = f"Trained for {counted(training.epochs, 'epoch')} ({training.method}, seed {training.seed})."
    if data is None:
        return f"Data made in a program. {trained}"
    samples = ", ".join(f"{split} {count:,}" for split, count in data.samples.items())
    return f"{_text(_data_name(config))}: {samples} samples. {trained}"


def _costs(document: Mapping[str, Any]) -> list[str]:
    """Return the section on costs; of a network that samples leave early, the mean and the 95th percentile."""
    units = "1 FLOP is one multiply or one add, so FLOPs are twice the MACs."
    if (found := document.get("checked_on")) is not None:
        test, times = document["test"], document["latency"]
        rows = [
            ["FLOPs, mean per sample", amount(test["mean_flops"], "flops")],
            ["FLOPs, 95th percentile", amount(test["p95_flops"], "flops")],
            ["latency, mean per sample", amount(times["mean_ms"], "latency_ms")],
            ["latency, 95th percentile", amount(times["p95_ms"], "latency_ms")],
        ]
        shares = ", ".join(
            f"{_text(each['name'])} {share:.1%}" for each, share in zip(document["exits"], test["shares"], strict=True)
        )
        left = (
            f"Test samples that leave at each exit: {shares}. Thresholds were fitted on "
            f"{document['fitted_on']['samples']:,} validation samples, and checked on {found['samples']:,} others."
        )
        return ["## Costs", _table(["cost", "value"], rows), f"{units} Latency: batch 1, TorchScript.", left]
    own, main = document["validation"], document.get("main_network", {}).get("validation", {})
    names = {"latency_ms": "latency", "size_bytes": "size of parameters and buffers", "flops": "FLOPs", "macs": "MACs"}
    rows = [
        [names.get(cost, cost), *("-" if each.get(cost) is None else amount(each[cost], cost) for each in (own, main))]
        for cost in COSTS
    ]
    conditions = (
        f"batch {own['latency_batch']}, {own['latency_runtime']}, {counted(own['latency_threads'] or 1, 'thread')}"
    )
    of = document.get("costs_are_for", "one sample")
    return [
        "## Costs",
        _table(["cost", "this network", "main network"], rows),
        f"For {of}. {units} Latency: median of a call, {conditions}.",
    ]


def _files(document: Mapping[str, Any]) -> str:
    files = document.get("files") or document.get("stages") or [document]
    rows = [
        [
            _text(each["file"]),
            each.get("format", "onnx"),
            amount(each["size_bytes"], "size_bytes") if each.get("size_bytes") else "-",
            amount(each["latency_ms"], "latency_ms") if each.get("latency_ms") else "-",
            f"`{each['sha256']}`",
        ]
        for each in files
    ]
    return _table(["file", "format", "size", "latency", "SHA-256"], rows)


def _made(document: Mapping[str, Any], config: RunConfig) -> str:
    """Say on what machine it was trained and measured, and with which versions."""

    def machine(of: Mapping[str, Any]) -> str:
        parts = [
            of.get("cpu"),
            of.get("gpu") and f"GPU {of['gpu']}",
            of.get("threads") and counted(of["threads"], "thread"),
        ]
        return _text(", ".join(str(each) for each in parts if each))

    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    return (
        f"Trained on: {machine(config.machine)}. Measured and exported on: {machine(document['machine'])}, "
        f"{_text(document['machine']['platform'])}; {_text(versions)}."
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
