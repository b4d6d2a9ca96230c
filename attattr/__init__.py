"""Why did the Transformer decide so? Attribution of decisions to single attention connections, and what follows from it.

The package under the book: a thin, plain implementation of *Self-Attention Attribution* (Hao et al., AAAI 2021) and
*Quantifying Attention Flow in Transformers* (Abnar & Zuidema, ACL 2020).

Letters in the shapes of tensors, everywhere in this package:

    B  examples in a batch          N  tokens of a text (K where keys and queries could differ)
    L  layers                       d  size of one head; D = H · d
    H  heads of a layer             C  classes
    M  nodes of a quadrature rule   R  branches: forward passes that leave a recorded one at some layer

Row i, column j of an N × N matrix: token i (the query) attends to token j (the key). Layers count from 0. Levels are the states
between them: level 0 the embeddings, layer l leads from level l to level l + 1, level L is the output.

The rooms, each importing only from those before it: the engine (the modules here), the drawings (`attattr.figures`), the live
explorers (`attattr.widgets`), and what only the book needs (`attattr.book`).
"""

from . import figures, widgets
from .attribution import attribute, attribute_inputs
from .batches import texts_of
from .book.results import result
from .connections import Attribution, save
from .data import examples, lexicon
from .flow import attention_flow, attention_rollout, scores_as_attention
from .graph import attribution_graph, attribution_tree, receptive_field
from .heads import head_importance, prune_heads, pruning_curve
from .pretrained import load
from .removal import remove_heads
from .triggers import Trigger, attack, mine_triggers

__version__ = "0.1.0"
__all__ = ["examples", "lexicon", "load", "result", "texts_of"]
__all__ += ["Attribution", "attention_flow", "attention_rollout", "attribute", "attribute_inputs", "save", "scores_as_attention"]
__all__ += ["attribution_graph", "attribution_tree", "figures", "receptive_field", "widgets"]
__all__ += ["head_importance", "prune_heads", "pruning_curve", "remove_heads"]
__all__ += ["Trigger", "attack", "mine_triggers"]
