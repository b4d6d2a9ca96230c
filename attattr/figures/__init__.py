"""Plotly figures: the drawings that have no ready-made chart, and the grammar (`attattr.figures.grammar`) in which all figures are drawn.

Drawings take what the engine returns and give a ``go.Figure``; none is shown. Results are drawn in the chapters, from tables.
"""

from . import grammar
from .graphs import graph_figure, graph_sentences, maximum_flow_figure
from .heads import head_figure, maps_figure, sheets_figure, token_paths_figure
from .pruning import pruning_slider
from .sentence import sentence_figure
from .tokens import trigger_figure, views_figure

__all__ = ["grammar", "graph_figure", "graph_sentences", "head_figure", "maps_figure", "maximum_flow_figure"]
__all__ += ["pruning_slider", "sentence_figure", "sheets_figure", "token_paths_figure", "trigger_figure", "views_figure"]
