"""Train a network with local critics, measure every sub-network, choose one under a budget, export it.

network = lctprune.attach_critics(model, example, num_outputs=10)
run = lctprune.train(network, data, lctprune.TrainConfig(epochs=10))
candidates = lctprune.evaluate(network, data.val, example)
best = lctprune.select(candidates, lctprune.Budget(flops=1e9))
lctprune.export(network.subnetwork(best.exit), example, "model.pt")
"""

from lctprune.config.data import DataConfig
from lctprune.config.network import NetworkConfig
from lctprune.config.training import TrainConfig
from lctprune.critics import make_critic
from lctprune.data.dataset import Data
from lctprune.data.load import load_data
from lctprune.data.splits import Augmentation, Normalization, Split, TensorSplit
from lctprune.errors import (
    BudgetError,
    ConfigError,
    DataError,
    ExportError,
    LctpruneError,
    NetworkError,
    NetworkWarning,
    PartitionError,
    ProcessLostError,
    RunError,
    TrainingError,
    UnknownOperationError,
)
from lctprune.exporting import export
from lctprune.losses import cross_entropy, mean_squared_error
from lctprune.measure.candidates import Candidate, evaluate
from lctprune.measure.costs import count_flops, count_parameters, measure_latency, size_bytes
from lctprune.measure.selection import Budget, cheaper_alternative, pareto_front, select
from lctprune.models.build import build_network
from lctprune.network import LocalCriticNetwork
from lctprune.partition.attach import attach_critics
from lctprune.runs import Run
from lctprune.training.agreement import GroupAgreement, measure_agreement
from lctprune.training.distributed.process_group import ProcessGroup, process_group
from lctprune.training.loop import Progress
from lctprune.training.trainer import open_run, train, train_steps
from lctprune.update import local_critic_backward
from lctprune.workflows.densification import densify
from lctprune.workflows.deployment import measure_run
from lctprune.workflows.finetuning import finetune
from lctprune.workflows.loading import load_network

__version__ = "0.1.0"

__all__ = [
    "Augmentation",
    "Budget",
    "BudgetError",
    "Candidate",
    "ConfigError",
    "Data",
    "DataConfig",
    "DataError",
    "ExportError",
    "GroupAgreement",
    "LctpruneError",
    "LocalCriticNetwork",
    "NetworkConfig",
    "NetworkError",
    "NetworkWarning",
    "Normalization",
    "PartitionError",
    "ProcessGroup",
    "ProcessLostError",
    "Progress",
    "Run",
    "RunError",
    "Split",
    "TensorSplit",
    "TrainConfig",
    "TrainingError",
    "UnknownOperationError",
    "attach_critics",
    "build_network",
    "cheaper_alternative",
    "count_flops",
    "count_parameters",
    "cross_entropy",
    "densify",
    "evaluate",
    "export",
    "finetune",
    "load_data",
    "load_network",
    "local_critic_backward",
    "make_critic",
    "mean_squared_error",
    "measure_agreement",
    "measure_latency",
    "measure_run",
    "open_run",
    "pareto_front",
    "process_group",
    "select",
    "size_bytes",
    "train",
    "train_steps",
]
