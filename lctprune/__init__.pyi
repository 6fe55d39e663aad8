from .config.compression import CompressConfig as CompressConfig
from .config.data import DataConfig as DataConfig
from .config.network import NetworkConfig as NetworkConfig
from .config.training import TrainConfig as TrainConfig
from .critics import make_critic as make_critic
from .data.dataset import Data as Data
from .data.load import load_data as load_data
from .data.preprocessing import Augmentation as Augmentation
from .data.preprocessing import Normalization as Normalization
from .data.splits import Split as Split
from .data.tensor_split import TensorSplit as TensorSplit
from .ensembles import EnsembleNetwork as EnsembleNetwork
from .errors import (
    BudgetError as BudgetError,
)
from .errors import (
    ConfigError as ConfigError,
)
from .errors import (
    DataError as DataError,
)
from .errors import (
    DataWarning as DataWarning,
)
from .errors import (
    ExportError as ExportError,
)
from .errors import (
    LctpruneError as LctpruneError,
)
from .errors import (
    NetworkError as NetworkError,
)
from .errors import (
    NetworkWarning as NetworkWarning,
)
from .errors import (
    PartitionError as PartitionError,
)
from .errors import (
    ProcessLostError as ProcessLostError,
)
from .errors import (
    RunError as RunError,
)
from .errors import (
    RunWarning as RunWarning,
)
from .errors import (
    TrainingError as TrainingError,
)
from .errors import (
    UnknownOperationError as UnknownOperationError,
)
from .losses import cross_entropy as cross_entropy
from .losses import mean_squared_error as mean_squared_error
from .measure.candidates import Candidate as Candidate
from .measure.choice import (
    cheaper_alternative as cheaper_alternative,
)
from .measure.choice import (
    select as select,
)
from .measure.costs import (
    count_flops as count_flops,
)
from .measure.costs import (
    count_parameters as count_parameters,
)
from .measure.costs import (
    size_bytes as size_bytes,
)
from .measure.evaluation import evaluate as evaluate
from .measure.latency import measure_latency as measure_latency
from .measure.rules import Rule as Rule
from .measure.selection import (
    Budget as Budget,
)
from .measure.selection import (
    pareto_front as pareto_front,
)
from .models.build import build_network as build_network
from .network import LocalCriticNetwork as LocalCriticNetwork
from .partition.attach import attach_critics as attach_critics
from .progressive import ProgressiveNetwork as ProgressiveNetwork
from .runs import Run as Run
from .training.agreement import GroupAgreement as GroupAgreement
from .training.agreement import measure_agreement as measure_agreement
from .training.distributed.process_group import ProcessGroup as ProcessGroup
from .training.distributed.process_group import process_group as process_group
from .training.progress import Progress as Progress
from .training.trainer import open_run as open_run
from .training.trainer import train as train
from .training.trainer import train_steps as train_steps
from .update import local_critic_backward as local_critic_backward
from .workflows.compression import compress as compress
from .workflows.compression_stages import Compressed as Compressed
from .workflows.densification import densify as densify
from .workflows.deployment import measure_run as measure_run
from .workflows.finetuning import finetune as finetune
from .workflows.handing_over import export as export
from .workflows.loading import load_network as load_network
from .workflows.narrowing import narrow as narrow
from .workflows.prediction import Prediction as Prediction
from .workflows.prediction import predict as predict

__version__: str
