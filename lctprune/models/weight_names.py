"""Find a network's own names in a state dict whose names were wrapped, by a parallel model, a compiler, a trainer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lctprune.errors import NetworkError
from lctprune.models.checkpoints import StateDicts, shown

# what DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into names, also inside
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
AVERAGED = {"ema", "averaged", "avg", "swa"}  # parts of the keys and prefixes of weights averaged over the steps
TRAINED = {"online", "raw", "current"}  # and of the trained ones that stand beside them, as in {"ema": {"online": ...}}
# usual keys and prefixes of the weights that are trained, the most usual first
USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights", "backbone", "")
COUNTERS = ("num_batches_tracked", "total_ops", "total_params")  # no weights: batch norm's, and those of thop
# torchvision's first DenseNet weights have "norm.1" where its network has "norm1"
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")


class Fit(NamedTuple):
    """A state dict of a file under a network's own names.

    Attributes:
        key: key of the state dict in the file; "" for the file itself.
        prefix: prefix that was removed from all names; "" if there was none.
        inside: whether wrappers were removed inside names, too.
        tensors: tensors under the network's names, and others below the prefix.
        left_out: names without the prefix, which were left out.
        others: labels of other state dicts that fit as well, with other values.
    """

    key: str
    prefix: str
    inside: bool
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Key and prefix, for messages."""
        return ".".join(part for part in (self.key, self.prefix.rstrip(".")) if part) or "the file itself"

    @property
    def rank(self) -> tuple[bool, int, bool]:
        """Order of preference among state dicts that fit equally: averaged weights, then the usual places."""
        words = set(re.split(r"[._]", self.label.lower()))
        is_averaged = not AVERAGED.isdisjoint(words) and TRAINED.isdisjoint(words)
        key, prefix = self.key.rpartition(".")[2], self.prefix.rstrip(".").rpartition(".")[2]
        place = USUAL.index(key) if key in USUAL else len(USUAL)
        return not is_averaged, place, prefix not in USUAL + WRAPPERS


def fit_names(found: StateDicts, own: Mapping[str, Tensor], *, source: str) -> Fit:
    """Choose the state dict, and the prefix of its names, under which most of a network's tensors are found.

    Of several that fit equally and differ in values, averaged weights (EMA, SWA) are taken first, as timm does, then
    the usual places, in the order of `USUAL`.

    Args:
        found: state dicts by their keys in the file.
        own: state dict of the network.
        source: description of the weights, for messages.

    Raises:
        NetworkError: several fit equally, with half of the network's tensors or more, and nothing says which to take.
    """
    wanted = {name: tensor for name, tensor in own.items() if not is_counter(name)}
    fits = [fit for key, tensors in found.items() for fit in _fits(key, tensors, own, wanted)]
    scores = [_score(fit, wanted) for fit in fits]
    highest = max(scores)
    best, *others = sorted((fit for fit, score in zip(fits, scores, strict=True) if score == highest), key=_preference)
    if highest == (0, 0):
        return best
    distinct = [best]
    for fit in others:
        if not any(_equal(fit, each, wanted) for each in distinct):
            distinct.append(fit)
    others = distinct[1:]
    tied = [fit.label for fit in others if fit.rank == best.rank]
    if tied and 2 * highest[0] < len(wanted):  # parts of another network, such as its blocks
        return next(fit for fit in fits if fit.key == best.key and not fit.prefix)
    if tied:
        raise NetworkError(
            f"{source} holds several sets of weights that fit and differ ({shown([best.label, *tied])}); "
            "save the one to take in a file of its own"
        )
    return best._replace(others=tuple(dict.fromkeys(fit.label for fit in others)))


def _preference(fit: Fit) -> tuple[object, ...]:
    return *fit.rank, fit.inside, len(fit.prefix)  # of equal ones, the name that needs the least change


def is_counter(name: str) -> bool:
    """Tell whether a tensor only counts, so that it may be missing or superfluous."""
    return name.endswith(COUNTERS)


def _fits(key: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], wanted: Collection[str]) -> Iterator[Fit]:
    """Yield the state dict with each prefix below which names of the network are found, and without a prefix."""
    yield from _with_prefixes(key, tensors, wanted, inside=False)
    parts = {part for name in own for part in name.split(".")}
    wrappers = [wrapper for wrapper in WRAPPERS if wrapper not in parts]
    plain = {_unwrapped(name, wrappers): tensor for name, tensor in tensors.items()}
    if plain.keys() != tensors.keys() and len(plain) == len(tensors):
        yield from _with_prefixes(key, plain, wanted, inside=True)


def _with_prefixes(key: str, tensors: Mapping[str, Tensor], wanted: Collection[str], *, inside: bool) -> Iterator[Fit]:
    votes: Counter[str] = Counter({"": 0})
    for name in tensors:
        for start in (0, *(match.end() for match in re.finditer(r"\.", name))):
            if name[start:] in wanted:
                votes[name[:start]] += 1
    for prefix in votes:
        below = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
        left_out = tuple(name for name in tensors if not name.startswith(prefix))
        yield Fit(key, prefix, inside, below, left_out)


def _unwrapped(name: str, wrappers: Collection[str]) -> str:
    return _DENSENET.sub(r"\1", ".".join(part for part in name.split(".") if part not in wrappers))


def _score(fit: Fit, wanted: Mapping[str, Tensor]) -> tuple[int, int]:
    """Count the tensors of the network that are found with their shape, and those that are found at all."""
    names = fit.tensors.keys() & wanted.keys()
    return sum(fit.tensors[name].shape == wanted[name].shape for name in names), len(names)


def _equal(left: Fit, right: Fit, wanted: Collection[str]) -> bool:
    return all(
        torch.equal(left.tensors[name], right.tensors[name])
        for name in wanted
        if name in left.tensors and name in right.tensors
    )
