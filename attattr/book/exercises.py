"""The exercises of all chapters: what their answers are called with, and what they must give."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor, nn, tensor

from ..connections import Attribution
from ..flow import attention_rollout
from .answers import Exercise, same_in_any_order, same_set


def mask(size: tuple[int, ...], *places: tuple[int, ...]) -> Tensor:
    """A mask that is true at these places."""
    found = torch.zeros(size, dtype=torch.bool)
    for place in places:
        found[place] = True
    return found


def attribution(scores: Tensor, difference: Tensor, target: int) -> Attribution:
    """A made-up attribution of the text "a b"; what no exercise asks for is zero."""
    zero = torch.zeros(len(scores))
    decision: Any = {"tokens": ("a", "b"), "text": "a b", "target": target, "label": "yes", "probabilities": tensor([0.5, 0.5])}
    certificate: Any = {"completeness": zero, "error": zero, "evaluations": zero.long(), "method": "riemann", "tolerance": 0.01}
    return Attribution(scores=scores, attention=scores.abs(), difference=difference, **decision, **certificate)


def squares(alpha: float) -> Tensor:
    """(α, α²)"""
    return tensor([alpha, alpha**2])


def of_squares(alpha: float) -> Tensor:
    """∂F/∂c of F(c) = Σ c² at αc, "N H d": 2αc"""
    return 2 * alpha * CONTEXT[0]


class LimitedGradient:
    """1 + α², at most m + 1 times"""

    def __init__(self, limit: int) -> None:
        self.limit, self.asked = limit, 0

    def __call__(self, alpha: float) -> Tensor:
        """The gradient at α."""
        self.asked += 1
        if self.asked > self.limit:
            raise AssertionError(f"Exercise 3.4: expected {self.limit} gradients for m = {self.limit - 1}, got one more, at α = {alpha}")
        return 1 + torch.as_tensor(alpha) ** 2


def measured(keep: Tensor) -> Tensor:
    """[[1, 2], [4, 5]], but 8 for the second head without the first, and 9 for a head that is gone"""
    return tensor([[1.0, 2.0 if keep[0, 0] else 8.0], [4.0, 5.0]]).masked_fill(~keep, 9.0)


def scores_of(values: dict[tuple[int, ...], float]) -> Tensor:
    """Scores of two layers of two heads for five tokens, zero but at these places, "L H N N"."""
    found = torch.zeros(2, 2, 5, 5)
    for place, value in values.items():
        found[place] = value
    return found


def graph_of_pair() -> nx.DiGraph:
    """The graph of the texts "a b" and "c" in two layers."""
    graph = nx.DiGraph()
    for place, token in enumerate(("[CLS]", "a", "b", "[SEP]", "c")):
        graph.add_nodes_from([(level, place) for level in range(3)], token=token)
    for layer, query, key in ((1, 4, 1), (1, 1, 2), (1, 0, 4), (1, 3, 1), (0, 2, 4), (0, 4, 4)):  # the last: c reads itself
        graph.add_edge((layer + 1, query), (layer, key), kind="attention", layer=layer)
    graph.add_edge((2, 1), (1, 1), kind="residual", layer=1)
    return graph


RANDOM = torch.Generator().manual_seed(0)
ATTENTION, VALUE = torch.rand(2, 3, 4, 4, generator=RANDOM).softmax(-1), torch.randn(2, 3, 4, 5, generator=RANDOM)
CONTEXT = torch.stack([(ATTENTION[:, :, i, :, None] * VALUE).sum(2) for i in range(4)], dim=1)
SMALL = torch.Generator().manual_seed(1)
ROWS, WEIGHTS = torch.randn(4, 6, generator=SMALL), torch.randn(3, 6, 3, generator=SMALL)  # X, and the weights of Q, K and V
HEAD = nn.functional.scaled_dot_product_attention(*(ROWS @ WEIGHTS))
EXACT = ATTENTION[0] * torch.einsum("nhd,hkd->hnk", CONTEXT[0], VALUE[0])  # Eq. 4 of Σ c²; with m right sums (m + 1) / m times as much
OF_LAYERS = tensor([[[[0.5, -0.9], [0.4, 0.3]], [[0.0, 0.1], [0.2, 0.0]]], [[[0.03, 0.0], [0.0, 0.01]], [[0.04, 0.0], [-0.3, 0.02]]]])
SIZES = tensor([[[[3.0, -1.0, 0.0], [0.0, 2.0, -2.0], [0.0, 0.0, 0.0]]]])  # sizes of the columns: 3, 3, 2
CUT = (tensor([[0.5, 0.5], [0.2, 0.8]]), tensor([[0.1, 0.4], [-0.9, 0.3]]))
TWO_LAYERS = tensor([[[[0.5, -0.25], [0.0, 0.25]]], [[[0.1, 0.1], [0.1, 0.1]]]])
TWO_HEADS = tensor([[[[0.5, -0.75], [0.0, 0.25]], [[-0.1, -0.2], [-0.3, -0.4]]]])
GRAPH = np.zeros((3, 4, 4))  # scores of three layers between [CLS], "a", [SEP] and "b"
GRAPH[2, 0], GRAPH[1, 3, 1], GRAPH[1, 1, 3], GRAPH[1, 1, 0], GRAPH[1, 2, 3] = [0.0, 0.5, 0.3, 0.2], 0.6, 0.4, 0.3, 0.1
GRAPH[0, 1, 3], GRAPH[0, 3, 2], GRAPH[0, 1, 2], GRAPH[0, 1, 1] = 0.9, 0.2, 0.25, 0.15
ADMITTED = GRAPH > 0
GRAPH[1, 0, 0], GRAPH[0, 2, 1] = 0.05, 0.05  # below the threshold
DRAWN = [(0, 1, 1), (1, 2, 3), (1, 3, 1), (2, 0, 1), (2, 0, 2), (2, 0, 3)]
EDGES = (np.array([[[0.5, 0.4], [0.3, -0.2]]]), np.array([[[True, False], [True, False]]]))
ATTRIBUTIONS = [attribution(TWO_HEADS, tensor([0.0]), 1), attribution(-TWO_HEADS, tensor([0.0]), 0)]
OF_ROWS = mask((2, 3, 3), (0, 0, 0), (0, 0, 2), (0, 2, 2), (1, 1, 0))
VALUES = tensor([[[0.1, 0.9, 0.5], [0.8, 0.7, 0.6], [0.4, 0.3, 0.2]], [[0.95, 0.85, 0.75], [0.15, 0.65, 0.25], [0.45, 0.35, 0.55]]])
TREE = nx.DiGraph([(3, 1, {"layer": 1}), (1, 0, {"layer": 0}), (3, 2, {"layer": 0})])
KEPT = mask((3, 5, 5), (0, 1, 4), (0, 4, 1), (0, 2, 2), (0, 3, 2), (2, 0, 4)).numpy()
TEXTS = [[1, 1, 1], [4], []]
IMPORTANCE = tensor([[1.0, 3.0, 2.0], [9.0, 4.0, 8.0], [5.0, 7.0, 6.0]])
SAMPLES = torch.rand(4, 2, 3, generator=RANDOM)
R = np.corrcoef(SAMPLES.flatten(1))
SPECIAL = tensor([True, False, False, False, True])
FISHER = [[R[pair], *np.tanh(np.arctanh(R[pair]) + np.array([-1.96, 1.96]) / 3**0.5)] for pair in ((0, 1), (2, 3))]  # of 6 heads
CONTEXTS, GRADIENTS = ([torch.randn(2, tokens, 3, 4, generator=RANDOM) for tokens in (2, 3)] for _ in range(2))
SLOPES = torch.stack([torch.einsum("lnhd,lnhd->lh", *both) for both in zip(CONTEXTS, GRADIENTS, strict=True)])
THREE_TOKENS = tensor([[[[-0.5, 0.1, 0.0], [0.0, -0.9, 0.0], [0.0, 0.0, 0.0]], [[0.9, 0.8, 0.7], [0.0, 0.2, 0.1], [0.0, 0.0, -2.0]]]])
WORDS = ["it", "rained", "all", "night"]
GOLD, BEFORE = tensor([0, 0, 1, 1, 2, 2, 0, 1]), tensor([0, 1, 1, 1, 0, 2, 0, 1])
ACCURACY = tensor([0.5, 0.2, 0.4])
LOWER, UPPER = tensor([[0.75, 0.25], [0.125, 0.875]]), tensor([[0.625, 0.375], [0.25, 0.75]])
MAPS = tensor([[[0.5, 0.5], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])  # two layers of two tokens
MIXED = tensor(  # the weights of flow, three layers of three tokens; the ways through all three share edges
    [
        [[0.75, 0.25, 0.0], [0.125, 0.75, 0.125], [0.0, 0.25, 0.75]],
        [[0.5, 0.5, 0.0], [0.25, 0.75, 0.0], [0.125, 0.375, 0.5]],
        [[0.625, 0.375, 0.0], [0.25, 0.5, 0.25], [0.0, 0.25, 0.75]],
    ]
)
ATTACKED = [  # rows of a result table2, of one task; the last four must not count
    {"against": "yes", "class": "yes", "kind": "no trigger", "rank": None, "accuracy": 0.8},
    {"against": "no", "class": "no", "kind": "no trigger", "rank": None, "accuracy": 0.7},
    {"against": "yes", "class": "yes", "kind": "chosen", "rank": 1, "accuracy": 0.3},
    {"against": "yes", "class": "yes", "kind": "chosen", "rank": 2, "accuracy": 0.4},
    {"against": "yes", "class": "yes", "kind": "chosen", "rank": 3, "accuracy": 0.65},
    {"against": "no", "class": "no", "kind": "chosen", "rank": 1, "accuracy": 0.75},
    {"against": "no", "class": "no", "kind": "chosen", "rank": 2, "accuracy": 0.65},
    {"against": "no", "class": "no", "kind": "chosen", "rank": 3, "accuracy": 0.7},
    {"against": "yes", "class": "no", "kind": "chosen", "rank": 1, "accuracy": 0.9},
    {"against": "no", "class": "yes", "kind": "chosen", "rank": 1, "accuracy": 0.1},
    {"against": "yes", "class": "yes", "kind": "random words", "rank": 1, "accuracy": 0.78},
    {"against": "no", "class": "no", "kind": "chosen on these rows", "rank": 1, "accuracy": 0.2},
]
RANKED = tensor([9.0, 0.1, 0.5, -0.7, 0.3, 8.0]), tensor([False, True, True, True, True, False])  # both ends are special tokens


def spare(heads: Any) -> float:
    """the share of right answers when only these heads work: it takes head 0, and head 1 or head 2; head 3 costs 0.1"""
    return (1.0 if 0 in heads and {1, 2} & set(heads) else 0.1 if {1, 2} & set(heads) else 0.0) - 0.1 * (3 in heads)


def over_connections(mixed: Tensor) -> Tensor:
    """How much of the rollout from the last token runs over each connection."""
    reached, found = torch.eye(mixed.shape[1])[-1], []
    for layer in mixed.flip(0):
        found.append(reached[:, None] * layer)
        reached = reached @ layer
    return torch.stack(found[::-1])


EXERCISES = {
    # context: A V of every head, "B N H d"
    "1.1": Exercise("attention, value", (ATTENTION, VALUE, CONTEXT)),
    # head: the context of one head by Eqs. 1 to 3, "N d"
    "1.2": Exercise("X, w_query, w_key, w_value", (ROWS, *WEIGHTS, HEAD)),
    # swap_first_row: the context with the row of [CLS] from the donor, "B N H d"
    "1.3": Exercise("context, donor", (torch.zeros(1, 3, 1, 2), torch.ones(1, 4, 1, 2), [[[[1, 1]], [[0, 0]], [[0, 0]]]])),
    # share_on: the share of the scores' size that goes to the tokens of this name
    "2.1": Exercise("scores, tokens, token", (SIZES, [*"abc"], "c", 0.25), (SIZES, [*"aba"], "a", 0.625), (SIZES, [*"abc"], "x", 0)),
    # without_largest: the attention, with the connections of the largest scores set to zero
    "2.2": Exercise("attention, scores, count", (*CUT, 0, CUT[0]), (*CUT, 2, [[0.5, 0], [0.2, 0]])),
    # largest_of_each_layer: true for the connections with the largest scores of each layer, so many in each, "L H N N"
    "2.3": Exercise(
        "scores, count",
        (OF_LAYERS, 0, mask((2, 2, 2, 2))),
        (OF_LAYERS, 2, mask((2, 2, 2, 2), (0, 0, 0, 0), (0, 0, 1, 0), (1, 1, 0, 0), (1, 0, 0, 0))),
    ),
    # right_sums: the mean of gradient(α) at α = 1/m, 2/m ... 1
    "3.1": Exercise("gradient, m", *((squares, m, [(m + 1) / (2 * m), (m + 1) * (2 * m + 1) / (6 * m**2)]) for m in (1, 4, 20))),
    # scores_of_layer: Eq. 4 for one layer, from its attention "H N N", its values "H N d" and ∂F/∂c "N H d" at αc: "H N N"
    "3.2": Exercise("A, V, gradient, m", *((ATTENTION[0], VALUE[0], of_squares, m, (m + 1) / m * EXACT) for m in (1, 4))),
    # completeness_gap: |Σ Attr - (F(A) - F(0))| for each layer, "L"
    "3.3": Exercise("att", (attribution(TWO_LAYERS, tensor([0.75, 0.4]), 0), [0.25, 0])),
    # trapezoid: the mean of the left and the right sum, from m + 1 gradients
    "3.4": Exercise("gradient, m", *((LimitedGradient(m + 1), m, 4 / 3 + 1 / (6 * m**2)) for m in (1, 5))),
    # algorithm_1: the attention edges (layer, i, j) that are drawn, in any order
    "4.1": Exercise("a, kept, tokens", (GRAPH, ADMITTED, ["[CLS]", "a", "[SEP]", "b"], DRAWN), agree=same_set),
    # best_sum: the largest Σ (a - cost) over all sets of the edges kept
    "4.2": Exercise("a, kept, cost", (*EDGES, 0.0, 0.8), (*EDGES, 0.4, 0.1), (*EDGES, 1.0, 0)),
    # crossing: how many attention edges of the layer join words of the two texts, and how many join words at all
    "4.3": Exercise("graph, border, layer", (graph_of_pair(), 3, 1, [1, 2]), (graph_of_pair(), 3, 0, [1, 1])),
    # peak: the largest weight of a row, in the mean over the rows of each head, "L H"
    "5.1": Exercise("attention", (tensor([[[[0.9, 0.1], [0.6, 0.4]], [[1.0, 0.0], [0.7, 0.3]]]]), [[0.75, 0.85]])),
    # values_without_label: max Attr_h(A) towards the class that the model chose, "B L H"
    "5.2": Exercise("atts", (ATTRIBUTIONS, [[[0.5, -0.1]], [[0.75, 0.4]]])),
    # tree_edges: the tree as a mask of connections, "L N N": in the layer of an edge, counted from 0, the parent reads the child
    "5.3": Exercise("tree, layers, tokens", (TREE, 2, 4, mask((2, 4, 4), (1, 3, 1), (0, 1, 0), (0, 3, 2)))),
    # in_the_same_rows: as many connections in each row of each layer as the edges have, those with the largest values, "L N N"
    "5.4": Exercise("edges, values", (OF_ROWS, VALUES, mask((2, 3, 3), (0, 0, 1), (0, 0, 2), (0, 2, 0), (1, 1, 1)))),
    # admitted_distances: for each layer the |i - j| of all connections kept, without i = j
    "6.1": Exercise("kept", (KEPT, [[1, 3, 3], [], [4]]), agree=same_in_any_order),
    # mean_distance: the mean distance from place i to the N - 1 other places
    "6.2": Exercise("i, N", (0, 2, 1), (0, 9, 4.5), (4, 9, 2.5), (7, 12, 38 / 11)),
    # resampled_mean: the mean over all edges of the texts chosen, repeats counted
    "6.3": Exercise("of_texts, chosen", (TEXTS, [0, 1, 2], 7 / 4), (TEXTS, [1, 1, 0], 11 / 5), (TEXTS, [2, 1, 1], 4)),
    # importance_by_attribution: Eq. 5 from the scores of each text, "L H"
    "7.1": Exercise("scores", ([TWO_HEADS], [[0.5, -0.1]]), ([TWO_HEADS, THREE_TOKENS], [[0.3, 0.4]])),
    # importance_by_taylor: Eq. 6 from contexts and gradients of each text, "L H"
    "7.2": Exercise("contexts, gradients", (CONTEXTS[:1], GRADIENTS[:1], SLOPES[0].abs()), (CONTEXTS, GRADIENTS, SLOPES.abs().mean(0))),
    # head_weights: the number of weights that are cut out with one head of size d
    "7.3": Exercise("D, d", (4, 2, 38), (384, 32, 49_248), (768, 64, 196_800)),
    # keep_one: the heads that stay when the least important go, but the best of each layer stays, "L H"
    "7.4": Exercise(
        "importance, count",
        (IMPORTANCE, 0, ~mask((3, 3))),
        (IMPORTANCE, 2, ~mask((3, 3), (0, 0), (0, 2))),
        (IMPORTANCE, 4, ~mask((3, 3), (0, 0), (0, 2), (1, 1), (2, 0))),
    ),
    # prune_in_steps: the heads that stay when in each step so many go, the least important by measure(keep), "L H"
    "7.5": Exercise(
        "measure, keep, each, steps",
        (measured, ~mask((2, 2)), 1, 2, [[False, True], [False, True]]),
        (measured, ~mask((2, 2)), 2, 1, [[False, False], [True, True]]),
        (measured, ~mask((2, 2), (1, 1)), 1, 2, [[False, True], [False, False]]),
    ),
    # pearson_with_interval: r, and the ends of Fisher's 95 % interval
    "8.1": Exercise("first, second", (SAMPLES[0], SAMPLES[1], FISHER[0]), (SAMPLES[2] + 1, SAMPLES[3], FISHER[1])),
    # within_layers: what each head has above the mean of its layer, "L H"
    "8.2": Exercise("importance", (tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 2.0]]), [[-2, -1, 3], [1, 1, -2]])),
    # ceiling: the mean of Pearson's r over all pairs of different samples
    "8.3": Exercise("samples", (SAMPLES[:2], R[0, 1]), (SAMPLES, R[np.triu_indices(4, 1)].mean())),
    # shared_by_chance: how many heads are in all of the tasks' random choices, on average
    "8.4": Exercise("heads, count, tasks", (10, 5, 1, 5), (10, 5, 2, 2.5), (6, 6, 4, 6), (10, 5, 3, 1.25)),
    # mine: the places of the trigger's tokens, and the largest score of a connection that is not between special tokens
    "9.1": Exercise(
        "scores, special",
        (scores_of({(0, 0, 0, 4): 0.9, (1, 0, 1, 2): 0.5, (1, 0, 0, 2): 0.25, (0, 1, 3, 3): 0.4}), SPECIAL, [[1, 2], 0.5]),
        (scores_of({(0, 1, 3, 1): 0.5, (0, 1, 2, 0): 0.09}), SPECIAL, [[1, 3], 0.5]),  # less than a fifth
        (scores_of({(1, 1, 3, 2): 0.4, (1, 1, 2, 1): 0.3, (1, 1, 0, 4): 0.35}), SPECIAL, [[1, 2, 3], 0.4]),
        (scores_of({(0, 0, 1, 3): -0.8, (0, 1, 2, 4): 0.25, (0, 1, 4, 0): 0.2}), SPECIAL, [[2], 0.25]),
    ),
    # put_in: a new list of the words, with each new word at its relative position
    "9.2": Exercise(
        "words, new, positions",
        (WORDS, ("not",), (0.5,), ["it", "not", "rained", "all", "night"]),
        (WORDS, ("never", "boring"), (0.5, 1.0), ["it", "rained", "never", "all", "night", "boring"]),
        (WORDS, ("hardly",), (0.05,), ["hardly", "it", "rained", "all", "night"]),  # rounds to 0: the first place
        (WORDS, ("with", "math"), (0.6, 0.65), ["it", "rained", "all", "with", "math", "night"]),  # both round to 4
        (WORDS, ("not", "at", "all"), (0.5, 0.5, 0.6), ["it", "rained", "all", "not", "at", "all", "night"]),  # the next is taken, too
        (WORDS, ("no", "one", "at", "all"), (0.25, 1.0, 1.0, 1.0), ["it", "no", "rained", "all", "night", "one", "at", "all"]),
    ),
    # flip_rate: the share of the rows first right that are wrong with a trigger
    "9.3": Exercise(
        "gold, before, after",
        (GOLD, BEFORE, tensor([0, 0, 2, 1, 2, 2, 0, 0]), 1 / 3),
        (GOLD, BEFORE, tensor([0, 1, 1, 1, 0, 2, 0, 1]), 0),
        (GOLD, BEFORE, tensor([2, 0, 0, 0, 2, 1, 1, 2]), 1),
    ),
    # flattery: how much lower the reported accuracy is if the best trigger is chosen on the reported rows
    "10.1": Exercise("selection, reported", (ACCURACY, tensor([0.45, 0.3, 0.1]), 0.2), (ACCURACY, tensor([0.1, 0.7, 0.2]), 0.6)),
    # backwards: the words of each text of a pair in reverse order, at the same places
    "10.2": Exercise(
        "tokens, segments",
        (["peach", "pear"], [1, 1], ["pear", "peach"]),
        (["without", "having", "impact"], [0, 0, 0], ["impact", "having", "without"]),
        (["girl", "boy"], [0, 1], ["girl", "boy"]),  # one word of each text
        (["march", "april", "31", "may"], [0, 1, 0, 1], ["31", "may", "march", "april"]),
        (["nobody"], [1], ["nobody"]),
    ),
    # heads_to_close: which number of heads, by accuracies on the selection: the most under attack for a small loss without one
    "10.3": Exercise(
        "without, under, loss",
        (tensor([0.74, 0.73, 0.65, 0.64]), tensor([0.29, 0.31, 0.43, 0.47]), 0.02, 1),
        (tensor([0.9, 0.88, 0.89, 0.7]), tensor([0.6, 0.7, 0.65, 0.8]), 0.025, 1),
        (tensor([0.9, 0.95, 0.85]), tensor([0.5, 0.52, 0.55]), 0.06, 2),
        (tensor([0.8, 0.5]), tensor([0.4, 0.6]), 0.1, 0),
    ),
    # rollout: of all heads' attention, after every layer, "L N N"
    "11.1": Exercise(
        "attention",
        (MAPS[:, None], [[[0.75, 0.25], [0, 1]], [[0.375, 0.625], [0.375, 0.625]]]),
        (ATTENTION, attention_rollout(ATTENTION)),
    ),
    # flow_of_two: the maximum flow of all pairs of tokens through two layers, "N N"
    "11.2": Exercise("lower, upper", (LOWER, UPPER, [[0.75, 0.625], [0.375, 1]])),
    # flow_from: the maximum flow from a token after a layer to each word, "N"
    "11.3": Exercise(
        "mixed, layer, source", (MIXED, 0, 1, [0.125, 0.75, 0.125]), (MIXED, 1, 2, [0.25, 0.75, 0.625]), (MIXED, 2, 0, [0.875, 1, 0.125])
    ),
    # leaving: what can leave the source's own nodes on its way to each word, "N"
    "11.4": Exercise(
        "mixed, layer, source", (MIXED, 0, 2, [0, 0.25, 0.75]), (MIXED, 1, 0, [1.25, 0.75, 0.5]), (MIXED, 2, 1, [0.875, 1.5, 0.875])
    ),
    # ranks: from 1 for the smallest up, equal values share the mean of their ranks, "N"
    "12.1": Exercise("values", (tensor([0.3, -0.1, 0.2]), [3, 1, 2]), (tensor([3.0, 1.0, 1.0, 2.0, 1.0, 3.0]), [5.5, 2, 2, 4, 2, 5.5])),
    # masked_first: which tokens are masked, the most relevant share of the ordinary ones, rounded up, "N"
    "12.2": Exercise(
        "relevance, ordinary, share",
        (*RANKED, 0.5, mask((6,), (2,), (4,))),
        (*RANKED, 0.6, mask((6,), (1,), (2,), (4,))),
        (*RANKED, 0.0, mask((6,))),
    ),
    # rollout_with: rollout to the top layer with this share for the residual connection, "N N"
    "12.3": Exercise("attention, share", (MAPS, 0.0, [[0, 1], [0.5, 0.5]]), (MAPS, 0.75, [[0.65625, 0.34375], [0.21875, 0.78125]])),
    # most_it_adds: by how much a head raises a share at most, over all sets of the other heads
    "13.1": Exercise(
        "share, others, head",
        (spare, (0, 2, 3), 1, 1.0),
        (spare, (1, 2, 3), 0, 0.9),
        (spare, (0, 1, 2), 3, -0.1),
        (spare, (1, 0), 2, 1.0),
        (spare, (2, 0), 1, 1.0),
    ),
    # precision_and_recall: of what has more than this share of the largest score, against the truth
    "13.2": Exercise(
        "scores, truth, tau",
        (tensor([5.0, 1.0, 4.0, 3.0]), mask((4,), (0,), (2,)), 0.4, [2 / 3, 1.0]),
        (tensor([2.0, 0.5, -3.0, 1.5]), mask((4,), (0,), (1,), (2,)), 0.6, [0.5, 1 / 3]),
        (tensor([0.1, 0.04, 0.02]), mask((3,), (0,), (2,)), 0.3, [0.5, 0.5]),
    ),
    # rollout_of_connections: how much of the rollout from the last token runs over each connection, "L N N"
    "13.3": Exercise(
        "mixed",
        (MAPS, [[[0.5, 0.5], [0, 0]], [[0, 0], [1, 0]]]),
        (torch.stack([LOWER, UPPER]), [[[0.1875, 0.0625], [0.09375, 0.65625]], [[0, 0], [0.25, 0.75]]]),
        (MIXED, over_connections(MIXED)),
    ),
    # number_outcome: whether the paper's percentage lies in Wilson's 95 % interval of ours
    "14.1": Exercise(
        "percent, right, rows",
        (54.95, 253, 444, "same"),
        (60, 496, 1000, "differs"),
        (1, 0, 100, "same"),  # f ± 1.96 standard errors is no interval at 0
        (97, 36, 40, "differs"),  # nor near 1
        (75, 34, 40, "same"),  # ten points away, with few rows
    ),
    # over_tasks: the outcome of a statement that was tested on several tasks
    "14.2": Exercise(
        "holds",
        ([True, True, True], "same"),
        ([True, False, True, True], "partly"),
        ([False, False], "differs"),
        ([False], "differs"),
        ([], "cannot be tested"),
    ),
    # average_change: the last row of Table 2 for one class, in points, from the rows of a result
    "14.3": Exercise("rows, label", (ATTACKED, "yes", -35), (ATTACKED, "no", 0)),
    # does_not_follow: the places of the changes that are not the mean of the accuracies after, minus the one before
    "14.4": Exercise(
        "before, after, printed",
        ([80, 60, 90], [[10, 20, 30], [50, 50, 50], [80, 70, 61]], [-60, -30, -19.67], [1]),
        ([50.01], [[40, 40, 40.01]], [-10.0], []),  # what rounding can do
        ([50], [[40, 40, 40]], [10.0], [0]),  # the sign
    ),
    # merge: scores among words, from those among their pieces, "W W"
    "15.1": Exercise(
        "scores, word_of",
        (tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0], [64.0, 128.0, 256.0]]), (0, 1, 1), [[1, 6], [72, 432]]),
        (tensor([[0.5, -1.0, 0.25], [2.0, 4.0, -8.0], [1.0, 0.0, 3.0]]), (0, 1, 0), [[4.75, -1], [-6, 4]]),  # a word in two parts
    ),
    # worst_group: the smallest accuracy of the groups by label and cue that have rows
    "15.2": Exercise(
        "predicted, gold, cue",
        (tensor([1, 1, 0, 1, 1, 0]), tensor([1, 1, 0, 0, 1, 1]), mask((6,), (0,), (1,), (3,)), 0),
        (tensor([1, 0, 1, 0, 0, 1]), tensor([1, 1, 1, 0, 0, 0]), mask((6,), (0,), (1,), (2,)), 2 / 3),  # two groups have no rows
        (tensor([2, 0, 2, 2, 0, 0, 0]), tensor([2, 2, 2, 2, 0, 0, 0]), mask((7,), (0,), (1,), (4,)), 0.5),
    ),
    # layer_passes: through how many layers the passes run that explain the chosen ones, with the recording
    "15.3": Exercise("layers, nodes, chosen", (12, 4, [*range(12)], 324), (32, 4, [30, 31], 44), (6, 3, [0], 24), (5, 2, [1, 3], 17)),
}
