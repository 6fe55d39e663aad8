"""The network of a candidate as it is exported, and where its weights come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from lctprune.config.combined import ENSEMBLE
from lctprune.errors import ConfigError
from lctprune.exporting.formats import Format
from lctprune.measure.candidates import Candidate
from lctprune.workflows.combined_candidates import combined_of, ensemble_exits, own_weights
from lctprune.workflows.exported_files import original_names
from lctprune.workflows.loading import LoadedRun
from lctprune.workflows.members import Member, member_of
from lctprune.workflows.rebuilding import built_from


class Source(NamedTuple):
    """A network that is exported.

    Attributes:
        network: the network.
        names: names of its tensors in a state dict.
        trained_with: where its weights come from.
        details: what model.json says of it besides.
    """

    network: nn.Module
    names: dict[str, str]
    trained_with: dict[str, Any]
    details: dict[str, Any]


def source_of(loaded: LoadedRun, chosen: Candidate, formats: Sequence[Format]) -> Source:
    """Return the network of a candidate: of one exit, or of an ensemble.

    Args:
        loaded: the run.
        chosen: the candidate.
        formats: formats of the files.

    Raises:
        NetworkError: the run has no such network any more.
        ConfigError: a format cannot hold it.
    """
    if not chosen.combined:
        member = member_of(loaded, chosen.exit)
        network = loaded.network(member.run)
        details = {"built_from": built_from(member)} if "state-dict" in formats else {}
        names = original_names(network, member.exit)
        return Source(network.subnetwork(member.exit), names, trained_with(loaded, member), details)
    if "state-dict" in formats:
        raise ConfigError("a state dict holds one exit, and an ensemble has several; leave out the format state-dict")
    several = combined_of(loaded, chosen).several
    described: dict[str, Any] = {
        "combined": ENSEMBLE,
        "exits": ensemble_exits(loaded, several.exits, several.weights),
        "is_fitted": several.is_fitted,
    }
    return Source(several.network(loaded.network()), {}, own_weights(loaded), described)


def trained_with(loaded: LoadedRun, member: Member) -> dict[str, Any]:
    """Name the run's checkpoint, and that of the added run which holds the network, by paths within the run."""
    run, record = loaded.run, own_weights(loaded)
    if member.run.path == run.path:
        return record
    added = {
        "run": str(member.run.path.relative_to(run.path)),
        "checkpoint_sha256": loaded.checkpoint(member.run).sha256,
    }
    return {**record, "added": added}
