"""One exit with fewer channels: how many go, what is recorded, and that it comes back in another process."""

from __future__ import annotations

import pytest
import torch
from equality import digests, same

import lctprune as lct
from lctprune.workflows.members import members_of


def test_first(trained: lct.Run) -> None:
    before = digests(trained)
    added = lct.narrow(trained, keep="60%")
    assert digests(trained) == before
    network = lct.load_network(added)
    candidates = {each.exit: each for each in lct.measure_run(trained)}
    print(candidates, (added.path / "config.json").read_text())
