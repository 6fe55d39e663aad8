"""Train a network with critics, measure every sub-network, choose one under a budget, export it.

network = lctprune.attach_critics(model, example, num_outputs=10)
run = lctprune.train(network, data, lctprune.TrainConfig(epochs=10))
candidates = lctprune.evaluate(network, data.val, example)
best = lctprune.select(candidates, lctprune.Budget(flops=1e9))
lctprune.export(network.subnetwork(best.exit), example, "model.pt")
"""

from pathlib import Path

import lazy_loader

# The names are listed once, in __init__.pyi, where type checkers and editors read them too. Each is imported when it is
# first used, so that `lctprune --help` need not wait for PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"

# In a clone, cli/ and reports/ lie beside this folder; once installed, they lie in it. Python started in the clone's
# folder finds this folder before any installed copy, so it must find the other two as well.
_beside = Path(__file__).parent.parent
if (_beside / "pyproject.toml").is_file() and not (Path(__file__).parent / "cli").is_dir():
    __path__.append(str(_beside))
