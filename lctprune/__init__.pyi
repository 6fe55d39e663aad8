from .config.data import DataConfig as DataConfig
from .config.network import NetworkConfig as NetworkConfig
from .config.training import TrainConfig as TrainConfig
from .critics import make_critic as make_critic
from .data.dataset import Data as Data
from .data.load import load_data as load_data
from .data.splits import (
    Augmentation as Augmentation,
    Normalization as Normalization,
    Split as Split,
    TensorSplit as TensorSplit,
)
from .errors import (
    BudgetError as BudgetError,
    ConfigError as ConfigError,
    DataError as DataError,
    ExportError as ExportError,
    LctpruneError as LctpruneError,
    NetworkError as NetworkError,
    NetworkWarning as NetworkWarning,
    PartitionError as PartitionError,
    ProcessLostError as ProcessLostError,
    RunError as RunError,
    TrainingError as TrainingError,
    UnknownOperationError as UnknownOperationError,
)
from .exporting import export as export
from .losses import cross_entropy as cross_entropy, mean_squared_error as mean_squared_error
from .measure.candidates import Candidate as Candidate, evaluate as evaluate
from .measure.costs import (
    count_flops as count_flops,
    count_parameters as count_parameters,
    measure_latency as measure_latency,
    size_bytes as size_bytes,
)
from .measure.selection import (
    Budget as Budget,
    cheaper_alternative as cheaper_alternative,
    pareto_front as pareto_front,
    select as select,
)
from .models.build import build_network as build_network
from .network import LocalCriticNetwork as LocalCriticNetwork
from .partition.attach import attach_critics as attach_critics
from .runs import Run as Run
from .training.agreement import GroupAgreement as GroupAgreement, measure_agreement as measure_agreement
from .training.distributed.process_group import ProcessGroup as ProcessGroup, process_group as process_group
from .training.loop import Progress as Progress
from .training.trainer import open_run as open_run, train as train, train_steps as train_steps
from .update import local_critic_backward as local_critic_backward
from .workflows.densification import densify as densify
from .workflows.deployment import measure_run as measure_run
from .workflows.finetuning import finetune as finetune
from .workflows.loading import load_network as load_network

__version__: str
