"""What a run says of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lctprune.cli.progress import note_on_threads
from lctprune.utils.environment import fewer_threads


@pytest.fixture
def busy_cores() -> Iterator[int]:
    """Keep every core busy, as other programs may."""
    cores = os.cpu_count() or 1
    command = [sys.executable, "-c", "print('', flush=True)\nwhile True: pass"]
    programs = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(cores)]
    for program in programs:
        assert program.stdout is not None
        program.stdout.readline()
    yield cores
    for program in programs:
        program.kill()
        program.communicate()


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="only Linux says what runs")
@pytest.mark.parametrize("threads", [1, 2, 64], indirect=True)
def test_a_training_with_more_threads_than_free_cores_is_told_so(
    busy_cores: int, threads: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = fewer_threads()
    note_on_threads()
    said = capsys.readouterr().err
    if threads == 1:
        assert (found, said) == (None, "")
    else:
        assert found == (busy_cores, 1)
        assert said.replace("\n", " ").startswith(f"Note: other programs keep {busy_cores} of {busy_cores} core")
        assert "with --threads 1 this may be" in said.replace("\n", " ")
