"""Times of training: larger parts take longer, and measuring leaves no trace."""

from __future__ import annotations

import torch
from equality import same
from torch import nn

import lctprune as lct
from lctprune.measure.step_costs import MEMORY_BYTES, as_timed, critic_time_ns, group_seconds, segment_times_ns

CONFIG = lct.TrainConfig(batch_size=64).resolved()


def test_each_segment_has_its_own_time() -> None:
    segments = [nn.Linear(4, 2048), nn.Linear(2048, 2048), nn.Linear(2048, 4), nn.Identity()]
    times = segment_times_ns(segments, torch.randn(1, 4), CONFIG)
    assert len(times) == 4
    assert times[1] == max(times)
    assert times[3] == min(times)


def test_a_larger_critic_takes_longer() -> None:
    small, large = (nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 3)) for width in (2, 8192))
    assert 0 < critic_time_ns(small, (4, 4, 4), CONFIG) < critic_time_ns(large, (4, 4, 4), CONFIG)


def test_the_optimisers_step_counts() -> None:
    """It is most of what a convolution of many channels and few pixels takes."""
    torch.manual_seed(0)
    groups = [nn.Conv2d(256, 256, 3, padding=1), nn.Sequential(nn.Flatten(), nn.Linear(1024, 3))]
    network = lct.LocalCriticNetwork(groups, [lct.make_critic("linear", (256, 2, 2), 3)])
    batch = torch.randn(4, 256, 2, 2), torch.tensor([0, 1, 2, 0])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    seconds = {}
    for optimizer in ("muon", "sgd"):
        config = lct.TrainConfig(optimizer=optimizer, critic_optimizer="adam", precision="fp32").resolved()
        seconds[optimizer] = group_seconds(network, *batch, config, loss=lct.cross_entropy)
    assert seconds["muon"][0] > 1.5 * seconds["sgd"][0]
    assert same(before, network.state_dict())


def test_timing_leaves_no_trace() -> None:
    segments = [nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()).eval(), nn.Conv2d(4, 4, 1)]
    whole, draws = nn.ModuleList(segments), torch.random.get_rng_state()
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    modes = [module.training for module in whole.modules()]
    segment_times_ns(segments, torch.randn(1, 3, 8, 8), CONFIG)
    torch.testing.assert_close(dict(whole.state_dict()), state, rtol=0, atol=0)
    assert modes == [module.training for module in whole.modules()]
    assert all(parameter.grad is None for parameter in whole.parameters())
    assert torch.equal(torch.randn(1, 3, 8, 8), _drawn_from(draws))


def _drawn_from(state: torch.Tensor) -> torch.Tensor:
    """What comes after the input of the test above."""
    torch.random.set_rng_state(state)
    torch.randn(1, 3, 8, 8)
    return torch.randn(1, 3, 8, 8)


def test_the_timed_batch_fits_into_memory() -> None:
    assert as_timed(CONFIG, 1000) == CONFIG
    assert as_timed(CONFIG, MEMORY_BYTES // 10).batch_size == 10
    assert as_timed(CONFIG, MEMORY_BYTES).batch_size == 2
