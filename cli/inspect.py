"""`lctprune inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from lctprune.cli.console import (
    megabytes,
    print_json,
    print_notes,
    print_table,
    quantity,
    stderr,
    stdout,
)
from lctprune.cli.options import JsonOption, NetworkArgument, Settings, with_settings
from lctprune.cli.parsing import group_count
from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig

if TYPE_CHECKING:
    from lctprune.measure.group_costs import GroupCosts

# columns that a narrow table does without, the least important first
DISPENSABLE = ("from", "critic params", "sent", "activations", "critic", "exit params")
NAMES = ("from", "to", "output", "critic")


@with_settings
def inspect(
    model: NetworkArgument,
    network: Annotated[dict[str, Any], Settings(NetworkConfig, without=("critic_pool",), unset=("groups",))],
    training: Annotated[dict[str, Any], Settings(TrainConfig, only=("batch_size", "precision"))],
    json: JsonOption = False,
) -> None:
    """Show where a network can be cut, and what its groups and critics are and cost, without training.

    Examples:
    lctprune inspect resnet50 --image-size 224 --groups 6

    lctprune inspect lstm --vocabulary 10000 --steps 20
    """
    from lctprune.cli.working import load_pytorch, working

    load_pytorch(model)
    import torch

    from lctprune.measure.group_costs import measure_groups
    from lctprune.measure.step_costs import output_bytes
    from lctprune.models.build import build_network, cut_point_names
    from lctprune.optim.optimizers import resolved_for

    config = NetworkConfig(model=model, **network | {"groups": group_count(network)})
    settings = TrainConfig(**training)
    torch.manual_seed(0)
    with working("Cutting the network, and counting its costs"):
        built, cuts = build_network(config, training=settings), cut_point_names(config)
        costs = measure_groups(built, config.example)
    print_notes(stderr(), built.notes)
    precision = resolved_for(built.groups, config.example, settings).precision
    *passed_on, output = output_bytes(built, config.example, precision=precision)
    sent = [size * settings.batch_size for size in [*passed_on, 0]]
    if json:
        groups_record = [
            {**cost._asdict(), "sent_bytes_per_step": size} for cost, size in zip(costs, sent, strict=True)
        ]
        exits = {"critics": built.critic_kinds, "critic_widths": built.critic_widths, "notes": built.notes}
        shape = list(config.example.shape)
        print_json({"model": config.model, "input": shape, "groups": groups_record, **exits, "cuts": cuts})
        return
    console = stdout()
    sizes = zip(built.critic_kinds, built.critic_widths, strict=True)
    critics = [kind if width == 1 else f"{kind} x {width:g}" for kind, width in sizes]
    each_group = zip(costs, sent, [*critics, ""], strict=True)
    rows = [_cells(index, *each, costs[-1]) for index, each in enumerate(each_group)]
    print_table(console, rows, dispensable=DISPENSABLE, left=NAMES, folded=("from", "to"))
    console.print("\nFor one sample; 1 FLOP is one multiply or one add; activations are what training keeps, in fp32.")
    if passed_on:
        console.print(
            "An exit is the groups up to its own and its critic; its costs are fractions of the main network's."
        )
        console.print(
            f"Sent is what goes to the next group's process in a step of {settings.batch_size} samples in {precision}; "
            f"{settings.batch_size * (4 + output)} bytes come back, the next exit's losses and outputs."
        )
    console.print(f"{len(cuts)} possible cut points, for --split-at: {', '.join(cuts)}")


def _cells(index: int, cost: GroupCosts, sent: int, critic: str, main: GroupCosts) -> dict[str, str]:
    return {
        "group": str(index),
        "from": cost.first,
        "to": cost.last,
        "output": " x ".join(str(side) for side in cost.output_shape),
        "FLOPs": quantity(cost.flops),
        "params": quantity(cost.parameters),
        "activations": megabytes(cost.activation_bytes),
        "critic": critic,
        "critic FLOPs": quantity(cost.critic_flops),
        "critic params": quantity(cost.critic_parameters),
        "exit FLOPs": _fraction(cost.exit_flops, main.exit_flops),
        "exit params": _fraction(cost.exit_parameters, main.exit_parameters),
        "sent": megabytes(sent),
    }


def _fraction(cost: int | None, main: int | None) -> str:
    return f"{cost / main:.1%}" if cost is not None and main else "?"
