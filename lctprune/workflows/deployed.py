"""What deploying an exit has written and measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lctprune.config.run import DataRecord
from lctprune.measure.scores import ExitScores
from lctprune.workflows.model_card import known
from lctprune.workflows.target_units import root_mean_squared_error


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """An exported exit.

    Attributes:
        model: the exported file, the first one of several; None where nothing was written.
        models: all exported files.
        model_card: model.json beside it; None where nothing was written.
        test_accuracy: accuracy of this exit on the test split, see `Candidate.accuracy`.
        main_test_accuracy: accuracy of the main network on the test split.
        test_score: value of the run's metric of this exit on the test split; None where it is not defined, too, as R2
            of targets that do not differ.
        main_test_score: value of the run's metric of the main network on the test split.
        test_rmse: root mean squared error of this exit on the test split, see `Candidate.rmse`.
        main_test_rmse: root mean squared error of the main network on the test split.
        test_samples: number of samples of the test split that count; it and the others are None where nothing was
            measured.
    """

    model: Path | None = None
    models: tuple[Path, ...] = ()
    model_card: Path | None = None
    test_accuracy: float | None = None
    main_test_accuracy: float | None = None
    test_score: float | None = None
    main_test_score: float | None = None
    test_rmse: float | None = None
    main_test_rmse: float | None = None
    test_samples: int | None = None

    @classmethod
    def of(cls, scores: ExitScores | None, data: DataRecord | None) -> Deployment:
        """Make one of which nothing was written, from the scores of the exit and of the main network, if any."""
        if scores is None:
            return cls()
        return cls(
            test_accuracy=known(scores.accuracy[0]),
            main_test_accuracy=known(scores.accuracy[1]),
            test_score=known(scores.score[0]),
            main_test_score=known(scores.score[1]),
            test_rmse=root_mean_squared_error(scores.loss[0], data),
            main_test_rmse=root_mean_squared_error(scores.loss[1], data),
            test_samples=scores.samples,
        )


def deployment_record(deployment: Deployment) -> dict[str, Any]:
    """Return a deployment as plain JSON values."""
    named = {"description" if name == "model_card" else name: value for name, value in vars(deployment).items()}
    named["models"] = [str(path) for path in deployment.models]
    return {name: str(value) if isinstance(value, Path) else value for name, value in named.items()}
