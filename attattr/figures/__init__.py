"""Plotly figures, one function for each figure of the book. They take results and return ``go.Figure``; none is shown."""

from .attacks import attack_figure, defence_figure
from .convergence import cancellation_figure, convergence_figure, path_figure, steps_figure
from .correlations import masking_figure, ranking_figure, saturation_figure
from .curves import masking_curves_figure
from .evidence import deletion_figure, removal_figure
from .flow import flow_figure, graph_sentences
from .heads import agreement_figure, cutting_figure, gates_figure, head_figure, maps_figure, sheets_figure, token_paths_figure
from .pruning import importance_figure, pruning_figure, pruning_slider
from .receptive import receptive_figure
from .sentence import sentence_figure
from .triggers import trigger_figure
from .universality import correlation_figure, universality_figure
from .views import maximum_flow_figure, views_figure

__all__ = [
    "agreement_figure",
    "attack_figure",
    "cancellation_figure",
    "convergence_figure",
    "correlation_figure",
    "cutting_figure",
    "defence_figure",
    "deletion_figure",
    "flow_figure",
    "gates_figure",
    "graph_sentences",
    "head_figure",
    "importance_figure",
    "maps_figure",
    "masking_curves_figure",
    "masking_figure",
    "maximum_flow_figure",
    "path_figure",
    "pruning_figure",
    "pruning_slider",
    "ranking_figure",
    "receptive_figure",
    "removal_figure",
    "saturation_figure",
    "sentence_figure",
    "sheets_figure",
    "steps_figure",
    "token_paths_figure",
    "trigger_figure",
    "universality_figure",
    "views_figure",
]
