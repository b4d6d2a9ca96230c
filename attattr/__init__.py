"""Why did the Transformer decide so? Attribution of decisions to single attention connections, and what follows from it.

The package under the book: a thin, plain implementation of *Self-Attention Attribution* (Hao et al., AAAI 2021) and
*Quantifying Attention Flow in Transformers* (Abnar & Zuidema, ACL 2020).

Letters in the shapes of tensors, everywhere in this package:

    B  examples in a batch          N  tokens of a text (K where keys and queries could differ)
    L  layers, counted from 0       d  size of one head; D = H · d
    H  heads of a layer             C  classes
    M  nodes of a quadrature rule   R  branches: forward passes that leave a recorded one at some layer

Row i, column j of an N × N matrix: token i (the query) attends to token j (the key).
"""

from . import exercises, figures, widgets
from .attribution import Attribution, attribute
from .data import examples, lexicon, result, texts
from .flow import attention_flow, attention_graph, attention_rollout, flow_bound, flow_saturation, scores_as_attention, source_bound
from .graph import attribution_graph, attribution_tree
from .heads import Correlation, PruningCurve, correlation, head_importance, prune_heads, pruning_curve
from .pretrained import load
from .receptive_field import ReceptiveField, receptive_field
from .removal import remove_heads
from .triggers import Attack, Trigger, attack, mine_triggers

__version__ = "0.1.0"
__all__ = [
    "Attack",
    "Attribution",
    "Correlation",
    "PruningCurve",
    "ReceptiveField",
    "Trigger",
    "attack",
    "attention_flow",
    "attention_graph",
    "attention_rollout",
    "attribute",
    "attribution_graph",
    "attribution_tree",
    "correlation",
    "examples",
    "exercises",
    "figures",
    "flow_bound",
    "flow_saturation",
    "head_importance",
    "lexicon",
    "load",
    "mine_triggers",
    "prune_heads",
    "pruning_curve",
    "receptive_field",
    "remove_heads",
    "result",
    "scores_as_attention",
    "source_bound",
    "texts",
    "widgets",
]
