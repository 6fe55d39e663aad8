"""ProgressiveNetwork: a sample leaves at the first exit that is sure enough (algorithm 1 of Lee, Hsieh, Lee 2022)."""

# no postponed annotations: TorchScript needs those of the class as types
import copy
import io
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from lctprune.errors import ExportError, NetworkError, first_line
from lctprune.network import LocalCriticNetwork
from lctprune.utils.files import write_atomically
from lctprune.utils.modules import device_of, evaluation_mode

SINGLE_SAMPLES = 8  # that are also compared one by one
TOLERANCE = 1e-3  # of outputs and confidences, as freezing rounds anew


class ProgressiveNetwork(nn.Module):
    """A network that is asked exit by exit; samples that have left cost nothing further.

    A sample leaves at the first exit whose confidence, the largest probability of a class, is at least the exit's
    threshold; what has not left before the last exit leaves there. Groups and critics are the network's own, not
    copies. Outputs of a sample must not depend on the rest of the batch.

    Args:
        network: trained network whose outputs are logits, [batch, classes].
        exits: numbers of the exits to ask, in ascending order.
        thresholds: threshold of each exit but the last, 0 to 1.
        temperatures: what the logits of each exit are divided by; by default 1.

    Raises:
        NetworkError: the exits are not ascending exits of the network, or numbers are missing or out of range.
    """

    exits: list[int]
    thresholds: Tensor
    temperatures: Tensor

    def __init__(
        self,
        network: LocalCriticNetwork,
        exits: Sequence[int],
        thresholds: Sequence[float],
        temperatures: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        temperatures = [1.0] * len(exits) if temperatures is None else temperatures
        if not exits or list(exits) != sorted(set(exits)) or not 0 <= exits[0] <= exits[-1] < len(network.groups):
            last = len(network.groups) - 1
            raise NetworkError(f"exits are {list(exits)}; they must be ascending numbers of exits, 0 to {last}")
        if len(thresholds) != len(exits) - 1 or len(temperatures) != len(exits):
            raise NetworkError(
                f"{len(exits)} exits need {len(exits) - 1} thresholds and {len(exits)} temperatures, "
                f"got {len(thresholds)} and {len(temperatures)}"
            )
        if not all(0 <= each <= 1 for each in thresholds) or not all(0 < each < float("inf") for each in temperatures):
            raise NetworkError("a threshold is not between 0 and 1, or a temperature is not a positive number")
        firsts = [0, *(exit + 1 for exit in exits)]
        self.stages = nn.ModuleList(
            nn.Sequential(*network.groups[first:end]) for first, end in itertools.pairwise(firsts)
        )
        critics = [network.critics[exit] if exit < len(network.critics) else nn.Identity() for exit in exits]
        self.heads = nn.ModuleList(critics)
        self.exits = list(exits)
        self.register_buffer("thresholds", torch.tensor([*thresholds, 0.0]))
        self.register_buffer("temperatures", torch.tensor(list(temperatures)))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the calibrated logits of each sample, at the exit where it leaves.

        Args:
            x: input, [batch, ...], of at least one sample.

        Returns:
            Logits divided by the exit's temperature, [batch, classes], in the order of the input.
        """
        return self.leave(x)[0]

    @torch.jit.export
    def leave(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what `forward` does, and at which exit each sample left.

        Args:
            x: input, [batch, ...], of at least one sample.

        Returns:
            Calibrated logits, [batch, classes], and the index among `exits` of each sample's exit, [batch], int64.
        """
        thresholds, temperatures = self.thresholds, self.temperatures
        places = torch.arange(x.shape[0], device=x.device)  # of the samples that are left, in the input
        outputs, order, left = [], [], []
        index, last = 0, thresholds.shape[0] - 1
        for stage, head in zip(self.stages, self.heads, strict=False):
            if places.shape[0] > 0:
                x = stage(x)
                logits = head(x) / temperatures[index]
                leaves = logits.softmax(1).amax(1) >= thresholds[index]
                if index == last:
                    leaves = torch.ones_like(leaves)  # also what is not a number
                if bool(leaves.any()):
                    outputs.append(logits[leaves])
                    order.append(places[leaves])
                    left.append(torch.full_like(places[leaves], index))
                    x, places = x[~leaves], places[~leaves]
            index += 1  # noqa: SIM113  # TorchScript has no enumerate over zip
        back = torch.cat(order).argsort()
        return torch.cat(outputs)[back], torch.cat(left)[back]


def scripted(network: ProgressiveNetwork, example: Tensor, *, folds: bool = True) -> torch.jit.ScriptModule:
    """Convert a progressive network to TorchScript: stages and critics traced, the decisions scripted, all frozen.

    Args:
        network: network; changing it later does not change the result.
        example: input, [batch, ...].
        folds: whether batch norm is folded into the layers before it.

    Raises:
        ExportError: it cannot be converted.
    """
    copied = copy.copy(network)
    copied._modules = {}
    stages, heads, x = [], [], example
    try:
        with evaluation_mode(network), torch.no_grad(), _without_warnings():
            for stage, head in zip(network.stages, network.heads, strict=True):
                stages.append(torch.jit.trace(stage, x, check_trace=False))  # type: ignore[no-untyped-call]
                x = stage(x)
                heads.append(torch.jit.trace(head, x, check_trace=False))  # type: ignore[no-untyped-call]
            copied.stages, copied.heads = nn.ModuleList(stages), nn.ModuleList(heads)
            # loaded, it has memory of its own, which goes with it: what is traced stays in memory for good
            buffer = io.BytesIO(torch.jit.script(copied.eval()).save_to_buffer())  # type: ignore[no-untyped-call]
            loaded = torch.jit.load(buffer, map_location=example.device)  # type: ignore[no-untyped-call]
            frozen: torch.jit.ScriptModule = torch.jit.freeze(
                loaded.eval(), preserved_attrs=["leave", "exits", "thresholds"], optimize_numerics=folds
            )
    except Exception as error:  # whatever the network's own code raises, too
        raise ExportError(f"the progressive network cannot be converted to TorchScript: {first_line(error)}") from error
    return frozen


def converted(network: ProgressiveNetwork, example: Tensor) -> torch.jit.ScriptModule:
    """Convert a progressive network to TorchScript, and compare it with the original.

    Args:
        network: network in any mode.
        example: real samples, [batch, ...], which are compared together and one by one.

    Raises:
        ExportError: it cannot be converted, or gives other answers.
    """
    example = example.to(device_of(network))
    batches = (example, *example[:SINGLE_SAMPLES, None].unbind())
    with evaluation_mode(network), torch.no_grad():
        for folds in (True, False):  # folding is wrong for some networks
            found = scripted(network, example, folds=folds)
            if all(agrees(network, found.leave, samples) for samples in batches):
                return found
    raise ExportError("the converted progressive network differs from the original; nothing was written")


def write_scripted(network: torch.jit.ScriptModule, path: Path) -> None:
    """Write a converted network; an existing file is replaced, whole or not at all.

    Raises:
        ExportError: it cannot be written.
    """
    try:
        with _without_warnings():
            write_atomically(path, network.save_to_buffer())
    except OSError as error:
        raise ExportError(f"{path} cannot be written ({error.strerror}); choose another place") from error


def agrees(network: ProgressiveNetwork, leave: Callable[[Tensor], tuple[Tensor, Tensor]], samples: Tensor) -> bool:
    """Tell whether a converted network gives the same answers, but for samples that stand where rounding decides.

    Args:
        network: original, in evaluation mode; call this without gradients.
        leave: what `ProgressiveNetwork.leave` has become.
        samples: inputs, [batch, ...].
    """
    expected, left = network.leave(samples)
    actual, actually_left = leave(samples)
    same = left == actually_left
    if not torch.allclose(actual[same], expected[same], rtol=TOLERANCE, atol=TOLERANCE):
        return False
    first = torch.minimum(left, actually_left)
    for index in sorted(set(first[~same].tolist())):
        x = samples[~same & (first == index)]
        for stage in network.stages[: index + 1]:
            x = stage(x)
        confidence = (network.heads[index](x) / network.temperatures[index]).softmax(1).amax(1)
        if ((confidence - network.thresholds[index]).abs() > TOLERANCE).any():
            return False
    return True


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence two warnings: that TorchScript is deprecated, and that a trace may be wrong, which is checked here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", category=torch.jit._trace.TracerWarning)
        yield
