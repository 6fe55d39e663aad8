"""LocalCriticNetwork: layer groups, and a critic at the output of each group but the last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from lctprune.config.network import NetworkConfig
from lctprune.errors import NetworkError

Part = tuple[int, nn.Module, nn.Module | None]  # number of a group, the group, and its critic: the last has none


class LocalCriticNetwork(nn.Module):
    """A main network cut into N layer groups, with N - 1 local critics.

    Group i maps the previous group's output to h_i; critic i maps h_i to an estimate of the network's output (equation
    1 and figure 1 of Lee, Hsieh, Lee 2022). Every prefix "groups 0..k, then critic k" is a network of its own: an
    *exit*.

    Args:
        groups: N modules f_1 to f_N; each takes one tensor, the output of the module before it.
        critics: N - 1 modules c_1 to c_{N-1}; each takes its group's output, and its output has the last group's shape.

    Raises:
        NetworkError: there is no group, or the number of critics is not the number of groups less one.
    """

    def __init__(self, groups: Iterable[nn.Module], critics: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.groups = nn.ModuleList(groups)
        self.critics = nn.ModuleList(critics)
        self.cuts: tuple[str, ...] = ()  # nodes of the original network's graph after which it was cut
        self.cut_point_names: tuple[str, ...] = ()  # names of the modules that end there, or of the nodes
        self.critic_kinds: tuple[str, ...] = ()  # kind of each critic that was made by name
        self.critic_widths: tuple[float, ...] = ()  # factor on the width of each of them
        self.notes: tuple[str, ...] = ()  # for people: which critics are smaller than usual, which exits save nothing
        self.tracing: tuple[str, ...] | None = None  # how it was traced, and the submodules that are kept whole
        self.new_parameters: tuple[str, ...] = ()  # names of those that its first weights did not contain
        self.recipe: NetworkConfig | None = None  # how to build this network again, if it was built by name
        if len(self.groups) == 0:
            raise NetworkError("a network needs at least 1 group, got 0")
        if len(self.critics) != len(self.groups) - 1:
            raise NetworkError(
                f"{len(self.groups)} groups need {len(self.groups) - 1} critics (one each but the last), "
                f"got {len(self.critics)}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the main network's output, h_N of equation 1.

        Args:
            x: input of the first group, [batch, ...].

        Returns:
            Output of the last group, [batch, outputs].
        """
        for group in self.groups:
            x = group(x)
        return x

    def parts(self) -> Iterator[Part]:
        """Yield each group with its number and its critic, in the order of the network."""
        for index, group in enumerate(self.groups):
            yield index, group, self.critics[index] if index < len(self.critics) else None

    def exits(self, x: Tensor) -> list[Tensor]:
        """Compute the output of every exit; each group runs once.

        Args:
            x: input of the first group, [batch, ...].

        Returns:
            One [batch, outputs] tensor per exit, shallowest first: c_i(h_i) of equation 3, and last h_N, the main
            network's.
        """
        outputs = []
        for _, group, critic in self.parts():
            x = group(x)
            outputs.append(x if critic is None else critic(x))
        return outputs

    def subnetwork(self, exit: int) -> nn.Sequential:
        """Return the network of one exit, a plain module: groups 0 to `exit`, then the exit's critic.

        The modules are this network's own, not copies: training either trains both.

        Args:
            exit: number of the exit, from 0; the last one is the main network, which has no critic.

        Raises:
            NetworkError: the network has no such exit.
        """
        if not 0 <= exit < len(self.groups):
            raise NetworkError(f"exit {exit} does not exist; this network has exits 0 to {len(self.groups) - 1}")
        return nn.Sequential(*self.groups[: exit + 1], *self.critics[exit : exit + 1])

    def main_state_dict(self) -> dict[str, Tensor]:
        """Return the main network's state dict, under the names that it had before the network was cut.

        The original model loads it. Modules that no group runs, such as an auxiliary classifier, are missing: use
        `load_state_dict(..., strict=False)` then.

        Raises:
            NetworkError: two groups use the same name, as groups made by hand may.
        """
        merged: dict[str, Tensor] = {}
        for index, group in enumerate(self.groups):
            for name, tensor in group.state_dict().items():
                if name in merged:
                    raise NetworkError(
                        f"group {index} and an earlier one both have a parameter or buffer named {name!r}, so they "
                        "were not cut from one model; use network.groups.state_dict()"
                    )
                merged[name] = tensor
        return merged
