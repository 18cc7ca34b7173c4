"""Top-1 and top-5 of any weights on any labelled images: what `scalablevit-ref evaluate` runs."""

from scalablevit_ref.evaluation.datasets import Asked, Dataset, open_dataset
from scalablevit_ref.evaluation.models import Model, Run, open_model
from scalablevit_ref.evaluation.preprocessing import Preprocessing, preprocessing
from scalablevit_ref.evaluation.processes import Processes, processes
from scalablevit_ref.evaluation.results import Counted, against
from scalablevit_ref.evaluation.run import Outcome, evaluate
from scalablevit_ref.evaluation.statistics import mcnemar, wilson

__all__ = [
    "Asked",
    "Counted",
    "Dataset",
    "Model",
    "Outcome",
    "Preprocessing",
    "Processes",
    "Run",
    "against",
    "evaluate",
    "mcnemar",
    "open_dataset",
    "open_model",
    "preprocessing",
    "processes",
    "wilson",
]
