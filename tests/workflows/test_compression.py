"""From trained weights to an exported network within a budget: in one go, interrupted anywhere, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lctprune as lct
from lctprune.workflows.compression import begin_compression
from lctprune.workflows.compression_stages import Compression

Cli = Callable[..., Any]
RECIPE = lct.NetworkConfig(model="vgg-lct", model_args={"width": 8}, groups=3)
CONFIG = lct.CompressConfig(epochs=3, candidates=2, shares=(0.2, 0.1, 0.3, 0.4))
TRAINING = lct.TrainConfig(batch_size=18, precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """Weights of a network that was trained for an epoch, without critics."""
    data = lct.load_data(lct.DataConfig(name=str(image_folder), image_size=8))
    recipe = lct.NetworkConfig(model="vgg-lct", model_args={"width": 8}, groups=1, num_outputs=3, image_size=8)
    network = lct.build_network(recipe)
    path = tmp_path_factory.mktemp("given")
    config = lct.TrainConfig(method="backprop", epochs=1, batch_size=18, precision="fp32", device="cpu")
    lct.train(network, data, config, run_dir=path / "run")
    torch.save(network.main_state_dict(), path / "weights.pt")
    return path / "weights.pt"


@pytest.fixture
def begin(given: Path, image_folder: Path, tmp_path: Path) -> Callable[..., Compression]:
    def begin(
        budget: lct.Budget | None = None,
        *,
        resume: bool = False,
        name: str = "run",
        config: lct.CompressConfig = CONFIG,
    ) -> Compression:
        return begin_compression(
            RECIPE,
            lct.DataConfig(name=str(image_folder), image_size=8),
            budget or lct.Budget(flops="50%"),
            weights=given,
            config=config,
            training=TRAINING,
            out=tmp_path / name,
            resume=resume,
        )

    return begin


def finished(compression: Compression) -> Any:
    for stage in compression.stages():
        for _ in stage.session.steps():
            pass
    return compression.finish()


@pytest.mark.filterwarnings("ignore::lctprune.errors.DataWarning", "ignore::lctprune.errors.NetworkWarning")
def test_all(begin: Callable[..., Compression]) -> None:
    result = finished(begin())
    print(result)
    print((result.run.path / "compress.json").read_text())
