"""Make tables, plots and one self-contained HTML page about a run.

Importing this package takes a second, as it imports pandas and matplotlib: import it where it is used.
"""

from lctprune.reports.comparison import comparison_figure, comparison_frame, plot_comparison
from lctprune.reports.curves import training_curves, training_figure
from lctprune.reports.explain import validation_data
from lctprune.reports.figures import save_figure
from lctprune.reports.page import report_page
from lctprune.reports.plots import pareto_figure, plot_pareto
from lctprune.reports.points import ParetoPoint, pareto_points
from lctprune.reports.tables import candidates_frame, metrics_frame, write_candidates
from lctprune.reports.trainings import FurtherRun

__all__ = [
    "FurtherRun",
    "ParetoPoint",
    "candidates_frame",
    "comparison_figure",
    "comparison_frame",
    "metrics_frame",
    "pareto_figure",
    "pareto_points",
    "plot_comparison",
    "plot_pareto",
    "report_page",
    "save_figure",
    "training_curves",
    "training_figure",
    "validation_data",
    "write_candidates",
]
