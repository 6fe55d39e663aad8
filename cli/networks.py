"""The commands that look at networks without training them: models, inspect."""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from rich.table import Table

from lctprune.cli.console import print_json, printed_warnings, quantity, stderr, stdout
from lctprune.cli.measured import JsonOption
from lctprune.cli.parsing import arguments, group_count, names, numbers
from lctprune.config.fields import help_of
from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig
from lctprune.measure.group_costs import GroupCosts, group_costs
from lctprune.measure.step_costs import output_bytes
from lctprune.models.build import MODELS, build_network, possible_cuts
from lctprune.models.external import timm_names, torchvision_names
from lctprune.optim.optimizers import settled

TRAINING = TrainConfig()


def models(
    pattern: Annotated[str, typer.Argument(help="Show only names that contain this.")] = "",
    json: JsonOption = False,
) -> None:
    """List the networks that can be trained by name.

    Any other goes by package.module:callable, a function that takes num_classes and returns an nn.Module.

    Example:

    lctprune models mobilenet
    """
    kinds = {"built-in": list(MODELS), "torchvision": torchvision_names(), "timm": timm_names()}
    found = {kind: [name for name in known if pattern in name] for kind, known in kinds.items()}
    if json:
        print_json(found)
        return
    console = stdout()
    for kind, known in found.items():
        console.print(f"{kind} ({len(known)}): {', '.join(known) or 'none'}\n")
    if not kinds["timm"]:
        console.print("timm is not installed: pip install 'lctprune[timm]' adds its networks, as timm/NAME.")


def inspect(
    model: Annotated[str, typer.Argument(help=help_of(NetworkConfig, "model"))],
    image_size: Annotated[int, typer.Option(help=help_of(NetworkConfig, "image_size"))] = 32,
    in_channels: Annotated[int, typer.Option(help=help_of(NetworkConfig, "in_channels"))] = 3,
    vocabulary: Annotated[int | None, typer.Option(help=help_of(NetworkConfig, "vocabulary"))] = None,
    features: Annotated[int | None, typer.Option(help=help_of(NetworkConfig, "features"))] = None,
    steps: Annotated[int | None, typer.Option(help=help_of(NetworkConfig, "steps"))] = None,
    model_args: Annotated[str | None, typer.Option(help=help_of(NetworkConfig, "model_args"))] = None,
    groups: Annotated[int | None, typer.Option(help=f"{help_of(NetworkConfig, 'groups')} Default: 4.")] = None,
    split_at: Annotated[str | None, typer.Option(help=help_of(NetworkConfig, "split_at"))] = None,
    balance: Annotated[str, typer.Option(help=help_of(NetworkConfig, "balance"))] = "flops",
    critic: Annotated[str, typer.Option(help=help_of(NetworkConfig, "critic"))] = "tail",
    critic_depth: Annotated[str | None, typer.Option(help=help_of(NetworkConfig, "critic_depth"))] = None,
    critic_width: Annotated[str | None, typer.Option(help=help_of(NetworkConfig, "critic_width"))] = None,
    num_outputs: Annotated[int, typer.Option(help=help_of(NetworkConfig, "num_outputs"))] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help=help_of(TrainConfig, "batch_size"))] = TRAINING.batch_size,
    precision: Annotated[str, typer.Option(help=help_of(TrainConfig, "precision"))] = TRAINING.precision,
    json: JsonOption = False,
) -> None:
    """Show where a network can be cut, and what its groups and critics are and cost, without training.

    Examples:

    lctprune inspect resnet50 --image-size 224 --groups 6

    lctprune inspect lstm --vocabulary 10000 --steps 20
    """
    config = NetworkConfig(
        model=model,
        model_args=arguments(model_args),
        groups=group_count(groups, split_at),
        split_at=names(split_at),
        balance=balance,
        critic=critic,
        critic_depth=numbers("critic depth", critic_depth, int),
        critic_width=numbers("critic width", critic_width, float),
        num_outputs=num_outputs,
        in_channels=in_channels,
        image_size=image_size,
        vocabulary=vocabulary,
        features=features,
        steps=steps,
    )
    training = TrainConfig(batch_size=batch_size, precision=precision)
    torch.manual_seed(0)
    with printed_warnings(stderr()):
        network, cuts = build_network(config, training=training), possible_cuts(config)
    costs = group_costs(network, config.example)
    precision = settled(training, network.groups, config.example).precision
    *passed_on, output = output_bytes(network, config.example, precision=precision)
    sent = [size * batch_size for size in [*passed_on, 0]]
    if json:
        groups_record = [
            {**cost._asdict(), "sent_bytes_per_step": size} for cost, size in zip(costs, sent, strict=True)
        ]
        print_json({"model": config.model, "input": list(config.example.shape), "groups": groups_record, "cuts": cuts})
        return
    console = stdout()
    console.print(_table(costs, sent))
    console.print("\nFor one sample; 1 FLOP is one multiply or one add; activations are what training keeps, in fp32.")
    if passed_on:
        console.print(
            f"Sent is what goes to the next group's process in a step of {batch_size} samples in {precision}; "
            f"{batch_size * (4 + output)} bytes come back, the next exit's losses and outputs."
        )
    console.print(f"{len(cuts)} possible cuts, for --split-at: {', '.join(cuts)}")


def _table(costs: list[GroupCosts], sent: list[int]) -> Table:
    table = Table(box=None, pad_edge=False)
    headings = "group,from,to,output,FLOPs,params,activations,critic FLOPs,critic params,sent"
    for heading in headings.split(","):
        is_name = heading in ("from", "to")
        table.add_column(heading, overflow="fold", max_width=20 if is_name else None, no_wrap=not is_name)
    for index, cost in enumerate(costs):
        table.add_row(
            str(index),
            cost.first,
            cost.last,
            " x ".join(str(side) for side in cost.output_shape),
            quantity(cost.flops),
            quantity(cost.parameters),
            f"{cost.activation_bytes / 2**20:.2f} MiB",
            quantity(cost.critic_flops),
            quantity(cost.critic_parameters),
            f"{sent[index] / 2**20:.2f} MiB",
        )
    return table
