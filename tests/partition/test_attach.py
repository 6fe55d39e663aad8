"""Cutting a model into groups: nothing is lost, nothing is added, and the cuts fall where they should."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lctprune as lct
from lctprune.errors import ConfigError, NetworkError, PartitionError
from lctprune.models.build import MODELS
from lctprune.partition.balancing import balance
from lctprune.partition.cut_points import measure_cut_points
from lctprune.partition.cutting import all_cut_points, partition_model, possible_cut_points
from lctprune.partition.preserving.guarding import unchanged
from lctprune.partition.symbolic.tracing import BY_HAND, trace

IMAGE = torch.zeros(1, 3, 8, 8)


def groups_of(model: nn.Module, example: Tensor, **settings: Any) -> list[nn.Module]:
    return partition_model(model, example, **settings).groups


# --- balance, against brute force ------------------------------------------------------------------------------------


def part_costs(cumulative: Sequence[int], cuts: Sequence[int]) -> list[int]:
    edges = [0, *(cumulative[cut] for cut in cuts), cumulative[-1]]
    return [right - left for left, right in itertools.pairwise(edges)]


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(costs=st.lists(st.integers(1, 30), min_size=1, max_size=8), parts=st.integers(1, 8))
def test_balance_makes_the_largest_part_as_small_as_any_cuts_do(costs: list[int], parts: int) -> None:
    parts = min(parts, len(costs))
    cumulative = list(itertools.accumulate(costs))
    cuts = balance(cumulative, parts)
    assert len(cuts) == parts - 1
    assert cuts == sorted(set(cuts))
    assert all(0 <= cut < len(costs) - 1 for cut in cuts)
    best = min(max(part_costs(cumulative, each)) for each in all_cuts(len(costs), parts))
    assert max(part_costs(cumulative, cuts)) == best


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@example(costs=[5, 4, 2, 7, 3, 1, 6, 10], parts=5)
@given(costs=st.lists(st.integers(1, 30), min_size=2, max_size=8), parts=st.integers(2, 8))
def test_of_equally_good_cuts_balance_takes_the_smallest_sum_of_squares(costs: list[int], parts: int) -> None:
    parts = min(parts, len(costs))
    cumulative = list(itertools.accumulate(costs))

    def badness(cuts: Sequence[int]) -> tuple[int, int]:
        costs = part_costs(cumulative, cuts)
        return max(costs), sum(cost**2 for cost in costs)

    assert badness(balance(cumulative, parts)) == min(badness(each) for each in all_cuts(len(costs), parts))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    costs=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), min_size=2, max_size=8), parts=st.integers(2, 8)
)
def test_what_the_end_of_a_part_costs_is_balanced_too(costs: list[tuple[int, int]], parts: int) -> None:
    parts = min(parts, len(costs))
    cumulative = list(itertools.accumulate(cost for cost, _ in costs))
    ends = [*(end for _, end in costs[:-1]), 0]

    def badness(cuts: Sequence[int]) -> tuple[int, int]:
        sizes = [cost + ends[end] for cost, end in zip(part_costs(cumulative, cuts), [*cuts, -1], strict=True)]
        return max(sizes), sum(size**2 for size in sizes)

    assert badness(balance(cumulative, parts, ends)) == min(badness(each) for each in all_cuts(len(costs), parts))


def all_cuts(points: int, parts: int) -> itertools.combinations[tuple[int, ...]]:
    return itertools.combinations(range(points - 1), parts - 1)


def test_balance_by_hand() -> None:
    assert balance([10, 20, 30, 40], 2) == [1]
    assert balance([10, 20, 30, 40], 4) == [0, 1, 2]
    assert balance([1, 2, 3, 100], 2) == [2]
    assert balance([5], 1) == []


# --- the built-in models ---------------------------------------------------------------------------------------------


def built(name: str, image_size: int) -> tuple[nn.Module, Tensor]:
    """Build a model in evaluation mode, whose batch norms do something, and two images."""
    torch.manual_seed(0)
    model = MODELS[name](num_outputs=10, in_channels=3, image_size=image_size).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model, torch.randn(2, 3, image_size, image_size)


def check_groups(model: nn.Module, parts: Sequence[nn.Module], x: Tensor) -> None:
    """One after the other they are the model: outputs, FLOPs, and every name of its state dict exactly once."""
    with torch.no_grad():
        h, flops = x, 0
        for part in parts:
            flops += lct.count_flops(part, h)
            h = part(h)
        assert torch.equal(h, model(x))
    assert flops == lct.count_flops(model, x)
    names = [name for part in parts for name in part.state_dict()]
    assert names == list(model.state_dict())


def blocks_of(part: nn.Module) -> set[str]:
    """`layer1.0` and so on for a ResNet, `stage1.0` ... (convolution and norm) for vgg-lct, else the first name."""
    names = set()
    for name in part.state_dict():
        layer = re.match(r"(layer\d\.\d+)|(stage\d)\.(\d+)", name)
        if layer is None:
            names.add(name.split(".")[0])
        else:
            names.add(layer[1] or f"{layer[2]}.{int(layer[3]) // 3}")
    return names


def check_cuts_between_blocks(parts: Sequence[nn.Module]) -> None:
    assert all(part.state_dict() for part in parts)
    for left, right in itertools.combinations(parts, 2):
        assert not blocks_of(left) & blocks_of(right)


CASES = [
    *[("resnet18", 32, groups) for groups in (2, 3, 5, 8)],
    *[("vgg-lct", 32, groups) for groups in (2, 3, 5, 8)],
    *[("resnet18", size, 3) for size in (64, 65, 96)],
    ("resnet34", 32, 5),
    ("resnet50", 32, 3),
    ("resnet50", 32, 8),
    ("resnet101", 32, 5),
]


@pytest.mark.parametrize(("name", "image_size", "groups"), CASES)
def test_groups_compute_what_the_model_computes(name: str, image_size: int, groups: int) -> None:
    model, x = built(name, image_size)
    parts = groups_of(model, x, groups=groups)
    assert len(parts) == groups
    check_groups(model, parts, x)
    check_cuts_between_blocks(parts)


def test_groups_are_balanced() -> None:
    model, x = built("resnet18", 32)
    parts = groups_of(model, x, groups=4)
    flops = []
    for part in parts:
        flops.append(lct.count_flops(part, x))
        x = part(x)
    assert max(flops) < 1.5 * sum(flops) / 4


def test_groups_end_with_the_activation_of_their_last_block() -> None:
    # so every boundary is what the next block sees, and no group begins by changing its input in place
    model, x = built("resnet18", 32)
    parts = groups_of(model, x, groups=5)
    boundary = x
    for part in parts[:-1]:
        boundary = part(boundary)
        assert boundary.dim() == 4
        assert boundary.min() >= 0


def test_groups_share_the_models_own_parameters() -> None:
    model, x = built("resnet18", 32)
    parts = groups_of(model, x, groups=4)
    own = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    assert {id(tensor) for part in parts for tensor in [*part.parameters(), *part.buffers()]} == own


def test_cutting_does_not_depend_on_the_examples_values_or_batch() -> None:
    model, x = built("resnet18", 32)
    wanted = [list(part.state_dict()) for part in groups_of(model, x, groups=4)]
    assert [list(part.state_dict()) for part in groups_of(model, torch.zeros(7, 3, 32, 32), groups=4)] == wanted


def test_one_group_is_the_model_itself() -> None:
    model, x = built("resnet18", 32)
    assert groups_of(model, x, groups=1) == [model]


# --- small models that the tests below cut ---------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class SmallNet(nn.Module):
    """Stem, three blocks, head; `between` is called on the map before the head."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor] = lambda _, x: x) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.block1, self.block2, self.block3 = Residual(4), Residual(4), Residual(4)
        self.fc = nn.Linear(4, 5)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.stem(x))))
        return self.fc(self.between(self, x).mean((2, 3)))


def first_names(part: nn.Module) -> list[str]:
    return list(dict.fromkeys(name.split(".")[0] for name in part.state_dict()))


@pytest.mark.parametrize(
    ("split_at", "expected"),
    [
        (["block1"], [["stem", "block1"], ["block2", "block3", "fc"]]),
        (["stem", "block3"], [["stem"], ["block1", "block2", "block3"], ["fc"]]),
        (["block1", "block2", "block3"], [["stem", "block1"], ["block2"], ["block3"], ["fc"]]),
    ],
)
def test_a_group_ends_after_each_named_module(split_at: list[str], expected: list[list[str]]) -> None:
    model = SmallNet().eval()
    parts = groups_of(model, IMAGE, split_at=split_at)
    assert [first_names(part) for part in parts] == expected
    check_groups(model, parts, torch.randn(2, 3, 8, 8))


def test_names_inside_modules_and_of_built_in_models() -> None:
    model, x = built("resnet18", 32)
    parts = groups_of(model, x, split_at=["layer1", "layer2.0", "layer3.1"])
    check_groups(model, parts, x)
    check_cuts_between_blocks(parts)
    assert [sorted(blocks_of(part)) for part in parts] == [
        ["bn1", "conv1", "layer1.0", "layer1.1"],
        ["layer2.0"],
        ["layer2.1", "layer3.0", "layer3.1"],
        ["fc", "layer4.0", "layer4.1"],
    ]


def test_a_cut_never_crosses_a_residual_connection() -> None:
    model = SmallNet().eval()
    parts = groups_of(model, IMAGE, groups=4)
    check_groups(model, parts, torch.randn(2, 3, 8, 8))
    assert sorted(name for part in parts for name in first_names(part)) == ["block1", "block2", "block3", "fc", "stem"]


# --- attach_critics --------------------------------------------------------------------------------------------------


def test_critics_fit_their_groups() -> None:
    network = lct.attach_critics(SmallNet(), IMAGE, num_outputs=5, groups=3, critic="paper", critic_depth=[2, 1])
    depths = [sum(isinstance(layer, nn.Conv2d) for layer in critic.modules()) for critic in network.critics]
    assert depths == [2, 1]
    assert [output.shape for output in network.exits(torch.zeros(2, 3, 8, 8))] == [(2, 5)] * 3


def test_one_critic_depth_is_for_all() -> None:
    network = lct.attach_critics(SmallNet(), IMAGE, num_outputs=5, groups=3, critic="paper", critic_depth=[2])
    depths = [sum(isinstance(layer, nn.Conv2d) for layer in critic.modules()) for critic in network.critics]
    assert depths == [2, 2]


def test_a_wrong_number_of_critic_depths_is_refused() -> None:
    with pytest.raises(ConfigError, match="critic depth has 3 numbers; give 1, or 2"):
        lct.attach_critics(SmallNet(), IMAGE, num_outputs=5, groups=3, critic="paper", critic_depth=[1, 1, 1])


def test_a_wrong_number_of_outputs_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"shape \[5\] .*not \[6\]"):
        lct.attach_critics(SmallNet(), IMAGE, num_outputs=6, groups=3)


def test_the_mode_of_every_module_is_put_back() -> None:
    model = SmallNet()
    model.train()
    model.stem[1].eval()  # a frozen batch norm
    before = {name: module.training for name, module in model.named_modules()}
    lct.attach_critics(model, IMAGE, num_outputs=5, groups=3)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_running_statistics_are_not_touched() -> None:
    model = SmallNet().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lct.attach_critics(model, torch.randn(4, 3, 8, 8), num_outputs=5, groups=3)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


# --- vectors and sequences -------------------------------------------------------------------------------------------


class TokenNet(nn.Module):
    """A class token before the others, two residual layers with normalisation, the class token's head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(5, width)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.register_buffer("scale", torch.tensor([0.5]))
        self.register_buffer("shift", torch.randn(1, 1, width), persistent=False)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:  # [batch, time, 5] -> [batch, 3]
        x = self.embed(x) * self.scale
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x)).relu() + self.shift
        return self.head(x[:, 0])


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))


NO_MAPS = {"vector": (perceptron, (4, 4)), "tokens": (TokenNet, (4, 6, 5))}


@pytest.mark.parametrize("critic", ["tail", "linear"])
@pytest.mark.parametrize(("build", "shape"), NO_MAPS.values(), ids=NO_MAPS)
def test_networks_on_vectors_and_tokens_get_critics(
    build: Callable[[], nn.Module], shape: tuple[int, ...], critic: str
) -> None:
    model, x = build().eval(), torch.randn(shape)
    network = lct.attach_critics(model, x, num_outputs=3, groups=3, critic=critic)
    assert torch.equal(network.eval()(x), model(x))
    lct.local_critic_backward(network.train(), x, torch.tensor([0, 1, 2, 0]))
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    assert sorted(network.main_state_dict()) == sorted(model.state_dict())


def test_convolutions_cannot_read_what_is_no_feature_map() -> None:
    with pytest.raises(NetworkError, match=r"'pooled' critic needs a feature map .*use tail or linear"):
        lct.attach_critics(perceptron(), torch.zeros(1, 4), num_outputs=3, groups=2, critic="pooled")


def test_volumes_get_no_critic() -> None:
    model = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Conv3d(2, 2, 3), nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(NetworkError, match=r"the group gives \[2, 4, 4, 4\]; cut where it has feature maps"):
        lct.attach_critics(model, torch.zeros(1, 1, 6, 6, 6), num_outputs=2, groups=2)


def test_the_trained_main_network_goes_home() -> None:
    model, x = TokenNet().eval(), torch.randn(2, 6, 5)
    network = lct.attach_critics(model, x, num_outputs=3, groups=3)
    home = TokenNet().eval()
    home.load_state_dict(network.main_state_dict(), strict=True)
    home.shift = model.shift  # no part of a state dict
    assert torch.equal(home(x), network.eval()(x))


# --- what cuts balance -----------------------------------------------------------------------------------------------


def test_an_unknown_balance_is_refused() -> None:
    with pytest.raises(ConfigError, match="balance is 'weight'; it must be one of flops, time, memory"):
        groups_of(SmallNet(), IMAGE, balance_by="weight")


class Slow(nn.Linear):
    """Takes its time without FLOPs."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        for _ in range(200):
            x = x.sin()
        return x


def test_a_slow_layer_gets_a_group_of_its_own() -> None:
    layers = [nn.Linear(4, 4), nn.Linear(4, 4), Slow(4, 4), *[nn.Linear(4, 4) for _ in range(4)]]
    model, x = nn.Sequential(*layers), torch.randn(2, 4)
    by_flops = [list(part.state_dict()) for part in groups_of(model, x, groups=3, balance_by="flops")]
    assert sorted(len(names) // 2 for names in by_flops) == [2, 2, 3]
    by_time = [list(part.state_dict()) for part in groups_of(model, x, groups=3, balance_by="time")]
    assert [len(names) // 2 for names in by_time] == [2, 1, 4]


def test_balance_by_memory_looks_at_activations() -> None:
    # a convolution saves its input: 3 x 16 x 16, then 8 x 16 x 16, then 8 x 4 x 4 numbers; its FLOPs say otherwise
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 4, stride=4), nn.Conv2d(8, 64, 3, padding=1),
        nn.Flatten(), nn.Linear(64 * 16, 2),
    )  # fmt: skip
    x = torch.zeros(1, 3, 16, 16)
    by_memory = [list(part.state_dict())[::2] for part in groups_of(model, x, groups=2, balance_by="memory")]
    by_flops = [list(part.state_dict())[::2] for part in groups_of(model, x, groups=2, balance_by="flops")]
    assert by_memory == [["0.weight", "1.weight"], ["2.weight", "3.weight", "5.weight"]]
    assert by_flops == [["0.weight", "1.weight", "2.weight"], ["3.weight", "5.weight"]]


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [0, -3])
def test_there_is_at_least_one_group(groups: int) -> None:
    with pytest.raises(ConfigError, match=f"groups is {groups}"):
        groups_of(SmallNet(), IMAGE, groups=groups)


def test_too_many_groups_are_refused_and_the_cut_points_named() -> None:
    with pytest.raises(PartitionError, match=r"6 groups need 5 .*has 4 .*block1, block2, block3.*at most `groups=5`"):
        groups_of(SmallNet(), IMAGE, groups=6)
    assert len(groups_of(SmallNet(), IMAGE, groups=5)) == 5


def test_the_cut_points_of_a_network_on_vectors_are_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(PartitionError, match=r"3 groups need 2 .*has 1 \(1\)"):
        groups_of(model, torch.zeros(1, 4), groups=3)


def test_an_unknown_cut_point_is_refused_and_the_possible_ones_named() -> None:
    with pytest.raises(PartitionError, match=r"'block9'.* is not in the model; possible .*block1.*block2.*block3"):
        groups_of(SmallNet(), IMAGE, split_at=["block9"])


def test_every_cut_point_that_the_error_names_can_be_used() -> None:
    with pytest.raises(PartitionError, match="possible cut points are") as caught:
        groups_of(SmallNet(), IMAGE, split_at=["block9"])
    names = str(caught.value).split("possible cut points are ")[1].split(", ")
    assert len(names) >= 4
    refused = []
    for name in names:
        try:
            groups_of(SmallNet(), IMAGE, split_at=[name])
        except PartitionError:
            refused.append(name)
    assert refused == []


@pytest.mark.parametrize("name", ["block2.first", "block2.second", "fc"])
def test_a_cut_where_more_than_one_tensor_is_alive_is_refused(name: str) -> None:
    with pytest.raises(PartitionError, match=f"'{name}'.* is not a cut point of the model"):
        groups_of(SmallNet(), IMAGE, split_at=[name])


@pytest.mark.parametrize(
    "names", [["block2", "block1"], ["block1", "block3", "block2"], ["block2", "block1", "block2"]]
)
def test_cut_points_out_of_order_are_refused(names: list[str]) -> None:
    with pytest.raises(PartitionError, match="must be in the network's order"):
        groups_of(SmallNet(), IMAGE, split_at=names)


def test_a_cut_point_that_is_named_twice_gives_two_critics_of_one_output() -> None:
    model = SmallNet()
    names, widths = ["block1", "block1", "block2"], [1, 0.5, 0.5]
    network = lct.attach_critics(model, IMAGE, num_outputs=5, split_at=names, critic_width=widths).eval()
    assert list(network.groups[1].state_dict()) == []
    x = torch.randn(2, 3, 8, 8)
    for mode in (True, False):
        assert torch.equal(network.groups[1].train(mode)(x), x)
    network.eval()
    first = network.groups[0](x)
    outputs = network.exits(x)
    for exit in (0, 1):
        assert torch.equal(outputs[exit], network.critics[exit](first))
        assert torch.equal(network.subnetwork(exit)(x), outputs[exit])
    assert torch.equal(outputs[-1], model.eval()(x))
    sizes = [lct.count_parameters(critic) for critic in network.critics]
    assert sizes[0] > sizes[1]
    assert network.cuts[0] == network.cuts[1]


def test_a_width_is_given_to_each_critic_or_once_for_all() -> None:
    def sizes(widths: list[float]) -> list[int]:
        network = lct.attach_critics(SmallNet(), IMAGE, num_outputs=5, groups=3, critic_width=widths)
        return [lct.count_parameters(critic) for critic in network.critics]

    whole, half = sizes([1]), sizes([0.5])
    assert sizes([0.5, 1]) == [half[0], whole[1]]
    assert half[0] < whole[0]
    with pytest.raises(ConfigError, match="critic width has 3 numbers; give 1, or 2"):
        sizes([1, 1, 1])


def test_all_cut_points_are_the_possible_ones_the_output_and_what_is_named() -> None:
    model = SmallNet()
    usual = possible_cut_points(model, IMAGE)
    every = all_cut_points(model, IMAGE)
    assert every[:-1] == usual
    assert every[-1].flops == lct.count_flops(model, IMAGE)
    with unchanged(model):
        points = measure_cut_points(trace(model), IMAGE)
    other = next(point for point in points if point not in every)
    named = all_cut_points(model, IMAGE, also=[other.node_name])
    assert named == sorted([*every, other], key=lambda point: point.node)


def test_a_model_that_depends_on_its_data_cannot_be_traced() -> None:
    model = SmallNet(between=lambda _, x: x * 2 if x.sum() > 0 else x)
    with pytest.raises(PartitionError, match=r"SmallNet cannot be traced .*LocalCriticNetwork by hand"):
        groups_of(model, IMAGE, groups=2)
    assert model.training


class Depends(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


def test_a_submodule_that_depends_on_its_data_is_kept_whole() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), Depends()), nn.Conv2d(4, 4, 3))
    assert trace(model, IMAGE).whole.keys() == {"1.1"}
    first, second = groups_of(model, IMAGE, split_at=["1.1"])
    for x in (torch.rand(2, 3, 8, 8) * 9, torch.rand(2, 3, 8, 8) * -9):
        assert torch.equal(second(first(x)), model(x))


class SkipToTheEnd(SmallNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.mean()


def test_a_model_without_a_cut_point_is_refused() -> None:
    with pytest.raises(PartitionError, match=rf"has no cut point.*{BY_HAND}"):
        groups_of(SkipToTheEnd(), IMAGE, groups=2)
    assert possible_cut_points(SkipToTheEnd(), IMAGE) == []


def test_dropout_modules_are_fine() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout2d(0.9), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    parts = groups_of(model, IMAGE, groups=2)
    assert any(not torch.equal(parts[0](IMAGE), parts[0](IMAGE)) for _ in range(5))
    assert torch.equal(parts[0].eval()(IMAGE), parts[0](IMAGE))


class TwoInputs(SmallNet):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x * mask)


class KeywordInput(SmallNet):
    def forward(self, x: Tensor, *, mask: Tensor) -> Tensor:
        return super().forward(x * mask)


@pytest.mark.parametrize("model", [TwoInputs, KeywordInput])
def test_two_inputs_are_refused(model: type[SmallNet]) -> None:
    with pytest.raises(PartitionError, match=rf"{model.__name__} takes several inputs \(x, mask\); {BY_HAND}"):
        groups_of(model(), IMAGE, groups=2)


class Pair(SmallNet):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), self.stem(x)


class InDict(SmallNet):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": super().forward(x)}


@pytest.mark.parametrize("model", [Pair, InDict])
def test_an_output_that_is_not_one_tensor_is_refused(model: type[SmallNet]) -> None:
    with pytest.raises(PartitionError, match="does not return one tensor"):
        groups_of(model(), IMAGE, groups=2)


class SharedBlock(SmallNet):
    """Runs its second block twice, as a recurrent network does."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block2(self.block3(self.block2(self.stem(x)))).mean((2, 3)))


def test_a_parameter_on_both_sides_of_a_cut_is_refused() -> None:
    with pytest.raises(
        PartitionError, match=r"'block3'.*: the parameter block2\.\w+\.\w+ is used on both sides; .*stem"
    ):
        groups_of(SharedBlock(), IMAGE, split_at=["block3"])


def test_no_cut_is_made_between_two_uses_of_a_parameter() -> None:
    model = SharedBlock().eval()
    assert not {"block2.first", "block3"} & {point.name for point in possible_cut_points(model, IMAGE)}
    parts = groups_of(model, IMAGE, groups=2)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(parts[1](parts[0](x)), model(x))


def test_a_shared_parameter_on_one_side_is_fine() -> None:
    model = SharedBlock().eval()
    parts = groups_of(model, IMAGE, split_at=["stem"])
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(parts[1](parts[0](x)), model(x))


class Flattening(nn.Module):
    """Flattens a feature map by `view`, which only one memory layout allows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), nn.Linear(8 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.last(x.view(x.size(0), -1).view(torch.float32).view(x.dtype) * torch.tensor(0.5))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_network_that_flattens_by_view_is_trained(groups: int, tmp_path: Path) -> None:
    images = torch.randint(256, (32, 8, 8, 3), dtype=torch.uint8)  # which batches give as channels last
    split = lct.TensorSplit(images, torch.arange(32) % 3)
    data = lct.Data(train=split, val=split, test=split, classes=("a", "b", "c"))
    model = Flattening()
    network = lct.attach_critics(model, data.example, num_outputs=3, groups=groups)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(network(x), model(x))
    method = "local-critic" if groups > 1 else "backprop"
    config = lct.TrainConfig(epochs=1, batch_size=16, precision="fp32", method=method)
    assert lct.train(network, data, config, run_dir=tmp_path).epochs_done == 1


def test_one_group_that_reshapes_is_the_model_itself() -> None:
    class Reshaping(Flattening):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(self.first(x)).reshape(len(x), -1))

    model = Reshaping()
    assert groups_of(model, IMAGE, groups=1) == [model]


def test_hooks_that_no_group_would_call_are_refused() -> None:
    model = SmallNet()
    model.stem.register_forward_hook(lambda _, __, output: 2 * output)  # stays with its module
    x = torch.randn(2, 3, 8, 8)
    first, second = groups_of(model.eval(), IMAGE, groups=2)
    assert torch.equal(second(first(x)), model(x))
    model.register_forward_hook(lambda _, __, output: 2 * output)
    with pytest.raises(PartitionError, match="SmallNet has forward hooks of its own"):
        groups_of(model, IMAGE, groups=2)


# --- cut points that are known ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
def test_a_network_is_cut_again_where_it_was_cut(named: bool) -> None:
    model, x = built("resnet18", 32)
    torch.manual_seed(1)
    first = lct.attach_critics(model, x, num_outputs=10, groups=4)
    torch.manual_seed(1)
    split_at = first.cut_point_names if named else first.cuts
    second = lct.attach_critics(model, x, num_outputs=10, split_at=split_at)
    assert (second.cuts, second.cut_point_names) == (first.cuts, first.cut_point_names)
    torch.testing.assert_close(dict(second.state_dict()), dict(first.state_dict()), rtol=0, atol=0)


def test_known_cut_points_are_not_searched() -> None:
    runs = []
    model = SmallNet()
    model.fc.register_forward_hook(lambda _, inputs, __: runs.append(isinstance(inputs[0], Tensor)))
    lct.attach_critics(model, IMAGE, num_outputs=5, split_at=["relu_1", "block2"], critic=["tail", "linear"])
    assert runs.count(True) == 1 + 4  # for shapes, and in both modes for comparing the graphs with the model


def test_a_model_that_does_not_run_is_refused_where_the_cut_points_are_known() -> None:
    with pytest.raises(NetworkError, match=r"does not run on an input of \[1, 4, 8, 8\]"):
        lct.attach_critics(SmallNet(), torch.zeros(1, 4, 8, 8), num_outputs=5, split_at=["block2"])
