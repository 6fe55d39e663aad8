"""LocalCriticNetwork: layer groups, and a critic at the output of each group but the last."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from lctprune.config.network import NetworkConfig
from lctprune.errors import NetworkError


class LocalCriticNetwork(nn.Module):
    """A main network cut into N layer groups, with N - 1 local critics.

    Group i maps the previous group's output to h_i; critic i maps h_i to an estimate of the network's output (equation
    1 and figure 1 of Lee, Hsieh, Lee 2022). Every prefix "groups 0..k, then critic k" is a network of its own: an
    *exit*.

    Args:
        groups: N modules; each takes one tensor, the output of the one before it.
        critics: N - 1 modules; each takes its group's output and gives what the last group gives.

    Raises:
        NetworkError: there is no group, or the number of critics is not the number of groups less one.
    """

    def __init__(self, groups: Iterable[nn.Module], critics: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.groups = nn.ModuleList(groups)
        self.critics = nn.ModuleList(critics)
        self.cuts: tuple[str, ...] = ()  # nodes of the original network's graph behind which it was cut
        self.places: tuple[str, ...] = ()  # the same for people: the modules that end there
        self.recipe: NetworkConfig | None = None  # how to build it again, where a built-in name made it
        if len(self.groups) == 0:
            raise NetworkError("a network needs at least 1 group, got 0")
        if len(self.critics) != len(self.groups) - 1:
            raise NetworkError(
                f"{len(self.groups)} groups need {len(self.groups) - 1} critics (one each but the last), "
                f"got {len(self.critics)}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """The main network's output."""
        for group in self.groups:
            x = group(x)
        return x

    def exits(self, x: Tensor) -> list[Tensor]:
        """The output of every exit, shallowest first, the main network's last; each group runs once."""
        outputs = []
        for group, critic in zip(self.groups, self.critics, strict=False):
            x = group(x)
            outputs.append(critic(x))
        return [*outputs, self.groups[-1](x)]

    def subnetwork(self, exit: int) -> nn.Sequential:
        """The network of one exit: groups 0..`exit`, then its critic; the last exit is the main network.

        The modules are this network's own, not copies: training either trains both.

        Raises:
            NetworkError: there is no such exit.
        """
        if not 0 <= exit < len(self.groups):
            raise NetworkError(f"exit {exit} does not exist; this network has exits 0 to {len(self.groups) - 1}")
        return nn.Sequential(*self.groups[: exit + 1], *self.critics[exit : exit + 1])

    def main_state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers of the main network, under the names they had before it was cut. What no group runs,
        such as an auxiliary head, is not among them: `load_state_dict(..., strict=False)` then.

        Raises:
            NetworkError: two groups use the same name, as groups made by hand may.
        """
        merged: dict[str, Tensor] = {}
        for index, group in enumerate(self.groups):
            for name, tensor in group.state_dict().items():
                if name in merged:
                    raise NetworkError(
                        f"the name {name!r} stands in group {index} and in an earlier one: groups made by hand have no "
                        "names in common with one original model; use network.groups.state_dict()"
                    )
                merged[name] = tensor
        return merged
