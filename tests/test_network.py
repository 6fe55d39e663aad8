"""LocalCriticNetwork: exits, sub-networks, and the way back to the original model."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

import lctprune as lct
from lctprune.errors import NetworkError


def small_network(groups: int = 3) -> lct.LocalCriticNetwork:
    """Convolutional groups with batch norm, so that there are buffers to share, too."""
    torch.manual_seed(0)
    body: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        for i in range(groups - 1)
    ]
    last = nn.Sequential(nn.BatchNorm2d(4 if groups > 1 else 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = nn.Linear(4 if groups > 1 else 3, 5)
    critics = [lct.make_critic("tail", (4, 8, 8), 5) for _ in range(groups - 1)]
    return lct.LocalCriticNetwork([*body, last.append(head)], critics)


def cut_resnet() -> tuple[nn.Module, lct.LocalCriticNetwork]:
    torch.manual_seed(0)
    model = resnet18(num_classes=7)
    return model, lct.attach_critics(model, torch.zeros(1, 3, 64, 64), num_outputs=7, groups=4)


def images(side: int = 8) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(5))


def storages(module: nn.Module) -> set[int]:
    tensors = [*module.parameters(), *module.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_parts_are_all_groups_with_their_critics_in_order(groups: int) -> None:
    network = small_network(groups)
    indices, bodies, critics = zip(*network.parts(), strict=True)
    assert indices == tuple(range(groups))
    assert all(body is group for body, group in zip(bodies, network.groups, strict=True))
    assert all(one is other for one, other in zip(critics, [*network.critics, None], strict=True))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_subnetwork_gives_exactly_what_its_exit_gives(groups: int) -> None:
    network = small_network(groups).eval()
    outputs = network.exits(images())
    assert len(outputs) == groups
    for exit, output in enumerate(outputs):
        assert torch.equal(network.subnetwork(exit)(images()), output)
    assert torch.equal(network(images()), outputs[-1])


def test_the_exits_of_a_cut_model_are_its_subnetworks_outputs() -> None:
    model, network = cut_resnet()
    model.eval()
    network.eval()
    outputs = network.exits(images(64))
    for exit, output in enumerate(outputs):
        assert output.shape == (2, 7)
        assert torch.equal(network.subnetwork(exit)(images(64)), output)
    assert torch.equal(outputs[-1], model(images(64)))


def test_the_exits_run_each_module_once() -> None:
    network = small_network(4).train()
    network.exits(images())
    counters = [buffer for name, buffer in network.named_buffers() if name.endswith("num_batches_tracked")]
    assert [int(counter) for counter in counters] == [1] * len(counters)
    assert len(counters) > 4


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_subnetwork_holds_nothing_of_what_comes_later(is_cut: bool) -> None:
    network = cut_resnet()[1] if is_cut else small_network(4)
    last = len(network.groups) - 1
    for exit in range(last + 1):
        subnetwork = network.subnetwork(exit)
        others = [*network.groups[exit + 1 :], *network.critics[:exit], *network.critics[exit + 1 :]]
        for other in others:
            assert not storages(subnetwork) & storages(other)

        copied: dict[int, object] = {}  # deepcopy's memo: the id of every object that it met
        copy.deepcopy(subnetwork, copied)
        for other in others:
            assert not copied.keys() & {id(each) for each in [*other.parameters(), *other.buffers(), other]}

        buffer = io.BytesIO()
        torch.save(subnetwork.state_dict(), buffer)
        assert buffer.tell() < lct.size_bytes(subnetwork) * 1.05 + 30_000


def test_a_subnetwork_is_plain_and_shares_the_networks_parameters() -> None:
    network = small_network()
    subnetwork = network.subnetwork(1)
    assert type(subnetwork) is nn.Sequential
    expected = {id(p) for module in (*network.groups[:2], network.critics[1]) for p in module.parameters()}
    assert {id(parameter) for parameter in subnetwork.parameters()} == expected


def test_training_a_copy_of_a_subnetwork_leaves_the_network_alone() -> None:
    network = small_network()
    before = copy.deepcopy(network.state_dict())
    copied = copy.deepcopy(network.subnetwork(0)).train()
    copied(images()).sum().backward()
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.sub_(parameter.grad)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("exit", [-1, 3, 100])
def test_an_exit_that_does_not_exist_is_refused(exit: int) -> None:
    with pytest.raises(NetworkError, match=rf"exit {exit} does not exist.*0 to 2"):
        small_network(3).subnetwork(exit)


@pytest.mark.parametrize(("groups", "critics"), [(1, 1), (2, 0), (2, 2), (4, 2)])
def test_a_wrong_number_of_critics_is_refused(groups: int, critics: int) -> None:
    with pytest.raises(NetworkError, match=rf"{groups} groups need {groups - 1} critics .*got {critics}"):
        lct.LocalCriticNetwork([nn.Linear(2, 2) for _ in range(groups)], [nn.Linear(2, 2) for _ in range(critics)])


@pytest.mark.parametrize("critics", [0, 1])
def test_no_group_at_all_is_refused(critics: int) -> None:
    with pytest.raises(NetworkError, match="at least 1 group"):
        lct.LocalCriticNetwork([], [nn.Linear(2, 2)] * critics)


def test_the_trained_backbone_goes_home() -> None:
    _, network = cut_resnet()
    network.train()
    lct.local_critic_backward(network, images(64), torch.tensor([0, 1]))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.sub_(0.1 * parameter.grad)
    home = resnet18(num_classes=7)
    state = network.main_state_dict()
    assert list(state) == list(home.state_dict())
    home.load_state_dict(state, strict=True)
    network.eval()
    home.eval()
    assert torch.equal(home(images(64)), network(images(64)))
    assert int(home.bn1.num_batches_tracked) == 1


def test_one_group_is_the_model() -> None:
    model = resnet18(num_classes=7)
    network = lct.attach_critics(model, torch.zeros(1, 3, 64, 64), num_outputs=7, groups=1)
    assert list(network.main_state_dict()) == list(model.state_dict())
    assert len(network.critics) == 0


def test_groups_by_hand_whose_names_collide_have_no_common_state_dict() -> None:
    network = lct.LocalCriticNetwork([nn.Linear(2, 2), nn.Linear(2, 2)], [nn.Linear(2, 2)])
    with pytest.raises(NetworkError, match=r"group 1 and an earlier one .*'weight'"):
        network.main_state_dict()
