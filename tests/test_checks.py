"""Every exercise of the book: the right answer, in any number type, is told so; stubs do not stop a notebook; mistakes are caught."""

from __future__ import annotations

import inspect
import json
import math
import re
from itertools import combinations, permutations

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import ROOT
from scipy.stats import binomtest, rankdata

import attattr
from attattr.book.checks import EXERCISES, check
from attattr.heads import least_important


def swapped(context, donor):
    found = context.clone()
    found[:, 0] = donor[:, 0]
    return found


def swapped_in_place(context, donor):
    context[:, 0] = donor[:, 0]
    return context


def head(X, w_query, w_key, w_value, axis=-1, size=3):
    return (X @ w_query @ (X @ w_key).T / size**0.5).softmax(axis) @ (X @ w_value)


def share_on(scores, tokens, token):
    columns = [j for j, name in enumerate(tokens) if name == token]
    return float(scores[..., columns].abs().sum() / scores.abs().sum())


def without_largest(attention, scores, count):
    cut = attention.clone().flatten()
    cut[scores.flatten().topk(count).indices] = 0
    return cut.reshape(attention.shape)


def cut_in_place(attention, scores, count):
    attention.view(-1)[scores.flatten().topk(count).indices] = 0
    return attention


def largest_of_each_layer(scores, count):
    flat = scores.flatten(1)
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, flat.topk(count).indices, True).view_as(scores)


def scores_of_layer(A, V, gradient, m, sums=None):
    return A * torch.einsum("nhd,hkd->hnk", (sums or right_sums)(gradient, m), V)


def right_sums(gradient, m):
    return sum(gradient(k / m) for k in range(1, m + 1)) / m


def left_sums(gradient, m):
    return sum(gradient(k / m) for k in range(m)) / m


def trapezoid(gradient, m):
    return (sum(gradient(k / m) for k in range(1, m)) + (gradient(0.0) + gradient(1.0)) / 2) / m


def algorithm_1(a, kept, tokens, upward=False, turned=True, within=True, ranked=True, leaves=False):
    drawn = []
    for layer in range(len(a)) if upward else reversed(range(len(a))):
        admitted = np.argwhere(kept[layer]).tolist()
        for i, j in sorted(admitted, key=lambda ij: -a[layer, ij[0], ij[1]]) if ranked else admitted:
            joined = {(u, v) for at, u, v in drawn if within or at != layer}
            if (i, j) not in joined and not (turned and (j, i) in joined):
                drawn.append((layer, i, j))
    for edge in sorted(drawn):
        if tokens[edge[2]] == "[SEP]" and not leaves and not any(i == edge[2] and layer < edge[0] for layer, i, _ in drawn):
            drawn.remove(edge)
    return drawn


def in_the_same_rows(edges, values):
    rank = values.argsort(dim=-1, descending=True).argsort(dim=-1)
    return rank < edges.sum(-1, keepdim=True)


def crossing(graph, border, layer, words_only=True, kinds=("attention",), itself=False):
    across, total = 0, 0
    for u, v, data in graph.edges(data=True):
        words = {"[CLS]", "[SEP]"}.isdisjoint(graph.nodes[n]["token"] for n in (u, v)) or not words_only
        if words and (itself or u[1] != v[1]) and data["kind"] in kinds and data["layer"] == layer:
            total += 1
            across += (u[1] > border) != (v[1] > border)
    return across, total


def tree_edges(tree, layers, tokens, first=0, turned=False):
    mask = torch.zeros(layers, tokens, tokens, dtype=torch.bool)
    for parent, child, layer in tree.edges(data="layer"):
        i, j = (child, parent) if turned else (parent, child)
        mask[(layer - first) % layers, i, j] = True
    return mask


def admitted_distances(kept):
    return [[abs(i - j) for i, j in np.argwhere(k).tolist() if i != j] for k in kept]


def mean_distance(i, n):
    return (i * (i + 1) + (n - 1 - i) * (n - i)) / (2 * (n - 1))


def by_taylor(contexts, gradients, size=torch.abs):
    return torch.stack([size((c * g).sum((1, 3))) for c, g in zip(contexts, gradients, strict=True)]).mean(0)


def pearson_with_interval(first, second, centred=True, lost=3, bend=math.atanh, back=math.tanh):
    x, y = (one.double() - centred * one.double().mean() for one in (first, second))
    r, half = float((x * y).sum() / (x.norm() * y.norm())), 1.96 / (x.numel() - lost) ** 0.5
    return r, back(bend(r) - half), back(bend(r) + half)


def keep_one(importance, count):
    best = importance.argmax(1, keepdim=True)
    return least_important(importance.scatter(1, best, float("inf")), count)


def one_put_back(importance, count):
    return least_important(importance, count).scatter(1, importance.argmax(1, keepdim=True), True)


def infinity_left_behind(importance, count):
    importance[torch.arange(len(importance)), importance.argmax(1)] = float("inf")
    return least_important(importance, count)


def prune_in_steps(measure, keep, each, steps):
    for _ in range(steps):
        keep = least_important(measure(keep).masked_fill(~keep, float("-inf")), int((~keep).sum()) + each)
    return keep


def back_from_the_dead(measure, keep, each, steps):
    for step in range(steps):
        keep = least_important(measure(keep), each * (step + 1))
    return keep


def measured_once(measure, keep, each, steps):
    return least_important(measure(keep).masked_fill(~keep, float("-inf")), int((~keep).sum()) + each * steps)


def mean_r(samples, pairs):
    flat = samples.flatten(1).numpy()
    return np.mean([np.corrcoef(flat[a], flat[b])[0, 1] for a, b in pairs])


def mine(scores, special, share=0.2):
    heads = scores.masked_fill(special[:, None] & special, 0).flatten(2).flatten(0, 1)
    values, flat = heads[heads.amax(1).argmax()].topk(2)
    ends = {end for one in flat[values >= share * values[0]].tolist() for end in divmod(one, len(special))}
    return sorted(end for end in ends if not special[end]), float(values[0])


def put_in(words, new, positions):
    words, size, last = list(words), len(words) + len(new), 0
    for word, position in zip(new, positions, strict=True):
        last = max(last + 1, round(size * position))
        words.insert(last - 1, word)
    return words


def rounded_down(words, new, positions):
    size, words = len(words) + len(new), list(words)
    for word, position in zip(new, positions, strict=True):
        words.insert(max(1, int(size * position)) - 1, word)
    return words


def in_the_old_length(words, new, positions):
    found = list(words)
    for word, position in zip(new, positions, strict=True):
        found.insert(max(1, round(len(words) * position)) - 1, word)
    return found


def no_next_place(words, new, positions):
    size, words = len(words) + len(new), list(words)
    for word, position in zip(new, positions, strict=True):
        words.insert(max(1, round(size * position)) - 1, word)
    return words


def next_of_an_equal_place_only(words, new, positions):
    size, words, last = len(words) + len(new), list(words), None
    for word, position in zip(new, positions, strict=True):
        place = max(1, round(size * position))
        last = place + 1 if place == last else place
        words.insert(min(last, len(words) + 1) - 1, word)
    return words


def before_the_sentence(words, new, positions):
    """Place 0 stands outside, as in the released code."""
    size, words, last = len(words) + len(new), list(words), -1
    for word, position in zip(new, positions, strict=True):
        last = max(last + 1, round(size * position))
        words.insert(last - 1, word)  # -1 counts from the end
    return words


def into_the_same_list(words, new, positions):
    words += new
    return words


def flip_rate(gold, before, after):
    right = before == gold
    return float((after[right] != gold[right]).double().mean())


def backwards(tokens, segments):
    left = {part: [t for t, s in zip(tokens, segments, strict=True) if s == part] for part in set(segments)}
    return [left[part].pop() for part in segments]


def backwards_in_place(tokens, segments):
    tokens[:] = backwards(tokens, segments)
    return tokens


def heads_to_close(without, under, loss):
    return int(under.masked_fill(without < without[0] - loss, -1).argmax())


def flow_by_networkx(lower, upper):
    """Both layers as a graph, one pair at a time: another way than the book's."""
    n, graph = len(lower), nx.DiGraph()
    for i in range(n):
        for j in range(n):
            graph.add_edge((2, i), (1, j), capacity=float(upper[i, j]))
            graph.add_edge((1, i), (0, j), capacity=float(lower[i, j]))
    return torch.tensor([[nx.maximum_flow_value(graph, (2, u), (0, v)) for v in range(n)] for u in range(n)])


def ranks(values):
    below = (values[None] < values[:, None]).sum(1)
    same = (values[None] == values[:, None]).sum(1)
    return below + (same + 1) / 2


def mixed(attention):
    return (attention.mean(1) + torch.eye(attention.shape[-1])) / 2


def rollout(attention):
    found = [mixed(attention)[0]]
    for of_layer in mixed(attention)[1:]:
        found.append(of_layer @ found[-1])
    return torch.stack(found)


def flow_from(mixed, layer, source):
    graph, tokens = nx.DiGraph(), range(mixed.shape[-1])
    for number, i, j in mixed.nonzero().tolist():
        graph.add_edge((number + 1, i), (number, j), capacity=float(mixed[number, i, j]))
    graph.add_nodes_from((0, word) for word in tokens)
    return [nx.maximum_flow_value(graph, (layer + 1, source), (0, word)) for word in tokens]


def minima(mixed, layer):
    """The formula for two layers, again and again."""
    found = mixed[0]
    for upper in mixed[1 : layer + 1]:
        found = torch.minimum(upper[:, :, None], found[None]).sum(1)
    return found


def leaving(mixed, layer, source):
    return mixed[0, source] + (1 - mixed[1 : layer + 1, source, source]).sum()


def masked_first(relevance, ordinary, share):
    count = int(np.ceil(share * int(ordinary.sum()) - 1e-9))
    order = relevance.masked_fill(~ordinary, float("-inf")).argsort(descending=True)
    found = torch.zeros_like(ordinary)
    found[order[:count]] = True
    return found


def rollout_with(attention, share):
    mixed = share * torch.eye(attention.shape[-1]) + (1 - share) * attention
    return torch.linalg.multi_dot([*mixed.flip(0)])


def member_of(word_of):
    return torch.nn.functional.one_hot(torch.as_tensor(word_of)).float()


def merge(scores, word_of):
    return member_of(word_of).T @ scores @ member_of(word_of)


def groups_of(predicted, gold, cue, classes=None):
    """The accuracy of each group that has rows."""
    labels = gold.unique() if classes is None else classes
    groups = [(gold == label) & (cue == has) for label in labels for has in (True, False)]
    return [(predicted == gold)[group].double().mean() for group in groups if group.any()]


# for each exercise: right answers, and mistakes
def precision_and_recall(scores, truth, tau):
    admitted = scores > tau * scores.max()
    both = (admitted & truth).sum()
    return [float(both / admitted.sum()), float(both / truth.sum())]


def subsets(others):
    return [set(some) for size in range(len(others) + 1) for some in combinations(others, size)]


def most_it_adds(share, others, head):
    return max(share({*some, head}) - share(some) for some in subsets(others))


def on_connections(mixed):
    found = []
    for layer, weights in enumerate(mixed):
        reached = torch.eye(mixed.shape[1])
        for above in mixed[layer + 1 :]:
            reached = above @ reached
        found.append(reached[-1][:, None] * weights)
    return torch.stack(found)


def number_outcome(percent, right, rows):
    interval = binomtest(right, rows).proportion_ci(method="wilson") if right <= rows else None
    return "same" if interval and interval.low <= percent / 100 <= interval.high else "differs"


def wald_outcome(percent, right, rows):
    share = right / rows
    return "same" if abs(percent / 100 - share) <= 1.96 * (share * (1 - share) / rows) ** 0.5 else "differs"


def over_tasks(holds):
    if not holds:
        return "cannot be tested"
    return "same" if all(holds) else "partly" if any(holds) else "differs"


def average_change(rows, label, own=True, kinds=("chosen",)):
    mine = [row for row in rows if row["against"] == label and (row["class"] == label or not own)]
    after = [row["accuracy"] for row in mine if row["kind"] in kinds]
    before = [row["accuracy"] for row in mine if row["kind"] == "no trigger"]
    return 100 * (sum(after) / len(after) - before[0])


def does_not_follow(before, after, printed, rounding=0.015):
    follows = [sum(three) / 3 - one for one, three in zip(before, after, strict=True)]
    return [i for i, (one, other) in enumerate(zip(follows, printed, strict=True)) if abs(one - other) > rounding]


ANSWERS = {
    "1.1": (
        [lambda attention, value: (attention @ value).transpose(1, 2)],
        [lambda attention, value: attention @ value, lambda attention, value: (attention.mT @ value).transpose(1, 2)],
    ),
    "1.2": (
        [head],
        [
            lambda *given: head(*given, axis=0),  # the columns sum to 1
            lambda *given: head(*given, size=6),  # D in the place of d
            lambda *given: head(*given, size=1),
            lambda X, w_query, w_key, w_value: head(X, w_key, w_query, w_value),
            lambda *given: head(*given).T,
        ],
    ),
    "1.3": ([swapped], [lambda context, donor: context, lambda context, donor: donor[:, :3], swapped_in_place]),
    "2.1": (
        [share_on],
        [
            lambda scores, tokens, token: share_on(scores.mT, tokens, token),  # rows
            lambda scores, tokens, token: share_on(scores.clamp(min=0), tokens, token),
            lambda scores, tokens, token: share_on(scores, [t if i == tokens.index(t) else "" for i, t in enumerate(tokens)], token),
        ],
    ),
    "2.2": (
        [without_largest],
        [
            lambda attention, scores, count: without_largest(attention, scores.abs(), count),
            lambda attention, scores, count: without_largest(attention, -scores, count),
            lambda attention, scores, count: without_largest(attention, scores, count).flatten(),
            cut_in_place,
        ],
    ),
    "2.3": (
        [largest_of_each_layer, lambda scores, count: largest_of_each_layer(scores, count).int()],
        [
            lambda scores, count: largest_of_each_layer(scores.flatten()[None], 2 * count).view_as(scores),  # of all layers at once
            lambda scores, count: largest_of_each_layer(scores.abs(), count),
            lambda scores, count: ~largest_of_each_layer(scores, count),  # those that stay
            lambda scores, count: largest_of_each_layer(scores.flatten(0, 1), count // 2).view_as(scores),  # of each head
        ],
    ),
    "3.1": (
        [right_sums],
        [
            left_sums,
            lambda gradient, m: right_sums(gradient, m) * m,
            lambda gradient, m: right_sums(gradient, m)[None],  # these shapes broadcast
            lambda gradient, m: right_sums(gradient, m).expand(2, 2),
            lambda gradient, m: right_sums(gradient, m)[:, None],
        ],
    ),
    "3.2": (
        [scores_of_layer],
        [
            lambda *given: scores_of_layer(*given, sums=left_sums),
            lambda A, V, gradient, m: scores_of_layer(A, V, gradient, m) * m,  # not divided by m
            lambda A, V, gradient, m: scores_of_layer(torch.ones_like(A), V, gradient, m),  # the gradient alone
            lambda *given: scores_of_layer(*given).mT,  # read and reader changed
            lambda *given: scores_of_layer(*given).sum(0),
        ],
    ),
    "3.3": (
        [lambda att: (att.scores.sum((1, 2, 3)) - att.difference).abs()],
        [lambda att: att.scores.sum((1, 2, 3)) - att.difference, lambda att: (att.scores.sum() - att.difference.sum()).abs()],
    ),
    "3.4": (
        [trapezoid],
        [
            right_sums,
            lambda gradient, m: (sum(gradient(k / m) for k in range(1, m)) + gradient(1.0) / 2) / m,
            lambda gradient, m: (left_sums(gradient, m) + right_sums(gradient, m)) / 2,  # too many gradients
        ],
    ),
    "4.1": (
        [algorithm_1, lambda *given: set(algorithm_1(*given)), lambda *given: np.array(algorithm_1(*given)[::-1])],
        [
            lambda *given: algorithm_1(*given, upward=True),  # from the bottom
            lambda *given: algorithm_1(*given, turned=False),  # reversed edges stay
            lambda *given: algorithm_1(*given, within=False),  # in the same layer they stay, as in the text
            lambda *given: algorithm_1(*given, ranked=False),  # in reading order
            lambda *given: algorithm_1(*given, leaves=True),  # [SEP] leaves stay
            lambda a, kept, tokens: algorithm_1(a, a > 0, tokens),  # all positive ones
            lambda a, kept, tokens: [edge for edge in algorithm_1(a, kept, tokens) if edge[2] != 2],  # every [SEP] goes
            lambda a, kept, tokens: [(layer + 1, i, j) for layer, i, j in algorithm_1(a, kept, tokens)],  # layers from 1
        ],
    ),
    "4.2": (
        [lambda a, kept, cost: (a[kept] - cost).clip(min=0).sum()],
        [
            lambda a, kept, cost: (a[kept] - cost).sum(),
            lambda a, kept, cost: (a - cost).clip(min=0).sum(),
            lambda a, kept, cost: a[kept & (a > cost)].sum(),
        ],
    ),
    "4.3": (
        [crossing],
        [
            lambda *given: crossing(*given)[::-1],
            lambda *given: crossing(*given, words_only=False),
            lambda *given: crossing(*given, kinds=("attention", "residual"), itself=True),
            lambda *given: crossing(*given, itself=True),  # a word that reads itself joins nothing
            lambda graph, border, layer: crossing(graph, border, layer - 1),  # layers from 1
        ],
    ),
    "5.1": (
        [lambda attention: attention.amax(-1).mean(-1)],
        [
            lambda attention: attention.mean((2, 3)),  # 1/N
            lambda attention: attention.amax((2, 3)),  # of the whole head
            lambda attention: attention.amax(-2).mean(-1),  # of the columns
        ],
    ),
    "5.2": (
        [lambda atts: torch.stack([att.scores.amax((2, 3)) for att in atts])],
        [
            lambda atts: torch.stack([att.attention.amax((2, 3)) for att in atts]),
            lambda atts: torch.stack([att.scores.abs().amax((2, 3)) for att in atts]),  # against counts as for
            lambda atts: torch.stack([att.scores.amax((2, 3)) for att in atts]).mean(0),  # one order for all
            lambda atts: torch.stack([att.scores.amax((2, 3)) * (1 if att.target else -1) for att in atts]),  # towards class 1
        ],
    ),
    "5.3": (
        [tree_edges],
        [
            lambda *given: tree_edges(*given, turned=True),
            lambda *given: tree_edges(*given, first=1),
            lambda *given: tree_edges(*given).any(0),
        ],
    ),
    "5.4": (
        [in_the_same_rows],
        [
            lambda edges, values: edges,
            lambda edges, values: in_the_same_rows(edges, -values),  # the smallest
            lambda edges, values: in_the_same_rows(edges.mT, values.mT).mT,  # in the same columns
            lambda edges, values: in_the_same_rows(edges.flatten(1), values.flatten(1)).reshape(edges.shape),  # in the layer
            lambda edges, values: in_the_same_rows(edges, values) & ~edges,
        ],
    ),
    "6.1": (
        [admitted_distances, lambda kept: [layer[::-1] for layer in admitted_distances(kept)]],
        [
            lambda kept: [[abs(i - j) for i, j in np.argwhere(k).tolist()] for k in kept],
            lambda kept: [[i - j for i, j in np.argwhere(k).tolist() if i != j] for k in kept],
            lambda kept: [distance for layer in admitted_distances(kept) for distance in layer],
            lambda kept: [sorted(set(layer)) for layer in admitted_distances(kept)],
        ],
    ),
    "6.2": ([mean_distance], [lambda i, n: n / 2, lambda i, n: sum(abs(i - j) for j in range(n)) / n]),
    "6.3": (
        [lambda texts, chosen: np.mean([distance for text in chosen for distance in texts[text]])],
        [
            lambda texts, chosen: np.mean([np.mean(texts[k] or [0]) for k in chosen]),
            lambda texts, chosen: np.mean([distance for text in set(chosen) for distance in texts[text]]),
        ],
    ),
    "7.1": (
        [lambda scores: torch.stack([of_text.amax((2, 3)) for of_text in scores]).mean(0)],
        [
            lambda scores: torch.stack([of_text.amax((2, 3)) for of_text in scores]).amax(0),
            lambda scores: torch.stack([of_text.abs().amax((2, 3)) for of_text in scores]).mean(0),
            lambda scores: torch.stack([of_text.clamp(min=0).sum((2, 3)) for of_text in scores]).mean(0),
            lambda scores: torch.stack([of_text.amax((0, 2, 3)) for of_text in scores]).mean(0),  # layers in one
            lambda scores: scores[0].amax((2, 3)),
        ],
    ),
    "7.2": (
        [by_taylor],
        [
            lambda contexts, gradients: by_taylor(contexts, gradients, size=lambda slope: slope),  # without the absolute value
            lambda contexts, gradients: by_taylor(contexts, gradients, size=lambda slope: slope).abs(),  # outside the mean
            lambda contexts, gradients: torch.stack([(c * g).abs().sum((1, 3)) for c, g in zip(contexts, gradients, strict=True)]).mean(0),
            lambda contexts, gradients: torch.stack([(c * g).sum(3).abs().sum(1) for c, g in zip(contexts, gradients, strict=True)]).mean(
                0
            ),
            lambda contexts, gradients: torch.stack([(c * g).sum((1, 2)).abs() for c, g in zip(contexts, gradients, strict=True)]).mean(0),
            lambda contexts, gradients: by_taylor(contexts, contexts),
        ],
    ),
    "7.3": (
        [lambda D, d: 3 * (D * d + d) + D * d],
        [
            lambda D, d: 4 * D * d,  # without the biases
            lambda D, d: 4 * (D * d + d),  # a bias too many
            lambda D, d: 3 * (D * d + d),  # without the output projection
            lambda D, d: 4 * D * D + 3 * D,  # of the whole layer
        ],
    ),
    "7.4": (
        [keep_one, lambda importance, count: keep_one(importance, count).int()],
        [
            least_important,  # no condition
            one_put_back,  # fewer go than were asked for
            lambda importance, count: ~keep_one(importance, count),  # those that go
            lambda importance, count: keep_one(-importance, count),  # the most important first
            lambda importance, count: keep_one(importance, count).flatten(),
            infinity_left_behind,
        ],
    ),
    "7.5": (
        [prune_in_steps],
        [back_from_the_dead, measured_once, lambda measure, keep, *rest: prune_in_steps(measure, torch.ones_like(keep), *rest)],
    ),
    "8.1": (
        [pearson_with_interval],
        [
            lambda first, second: pearson_with_interval(first, second)[0],  # without the interval
            lambda first, second: pearson_with_interval(first, second, centred=False),
            lambda first, second: pearson_with_interval(first, second, lost=0),  # √LH
            lambda first, second: pearson_with_interval(first, second, bend=lambda r: r, back=lambda z: z),
            lambda first, second: pearson_with_interval(first.argsort(), second.argsort()),
        ],
    ),
    "8.2": (
        [lambda importance: importance - importance.mean(1, keepdim=True)],
        [
            lambda importance: importance - importance.mean(),  # of all heads
            lambda importance: importance - importance.mean(0),  # of a column
            lambda importance: importance / importance.norm(dim=1, keepdim=True),
            lambda importance: importance.mean(1),
        ],
    ),
    "8.3": (
        [
            lambda samples: mean_r(samples, combinations(range(len(samples)), 2)),
            lambda samples: mean_r(samples, permutations(range(len(samples)), 2)),  # each pair in both orders
        ],
        [
            lambda samples: torch.corrcoef(samples.flatten(1)).mean(),  # with the diagonal
            lambda samples: mean_r(samples, [(0, 1)]),  # the first pair only
            lambda samples: mean_r(samples, [(0, n) for n in range(1, len(samples))]),
            lambda samples: torch.corrcoef(samples.flatten(1).argsort(1).argsort(1).float())[0, 1],  # ranks
        ],
    ),
    "8.4": (
        [lambda heads, count, tasks: heads * (count / heads) ** tasks],
        [
            lambda heads, count, tasks: count**tasks / heads,
            lambda heads, count, tasks: heads * (count / heads) ** 2,  # two tasks only
            lambda heads, count, tasks: (count / heads) ** tasks,  # of one head
            lambda heads, count, tasks: count / tasks,
        ],
    ),
    "9.1": (
        [mine],
        [
            lambda scores, special: mine(scores, torch.zeros_like(special)),  # special tokens as words
            lambda scores, special: (mine(scores, special)[0], float(scores.max())),  # with those between special tokens
            lambda scores, special: mine(scores.abs(), special),
            lambda scores, special: mine(scores, special, share=0.0),  # the second connection always
            lambda scores, special: mine(scores, special, share=1.0),  # the first alone
            lambda scores, special: mine(scores.flatten(0, 1).amax(0)[None, None], special),  # of two heads
            lambda scores, special: mine(scores, special)[0],  # without the score
        ],
    ),
    "9.2": (
        [put_in, lambda *given: tuple(put_in(*given))],
        [
            rounded_down,
            in_the_old_length,
            no_next_place,
            next_of_an_equal_place_only,
            before_the_sentence,
            into_the_same_list,
            lambda words, new, positions: [*words, *new],
        ],
    ),
    "9.3": (
        [flip_rate],
        [
            lambda gold, before, after: (after != gold).float().mean(),  # one minus the accuracy
            lambda gold, before, after: (after != before).float().mean(),  # all decisions that change
            lambda gold, before, after: 1 - flip_rate(gold, before, after),  # those that stay
            lambda gold, before, after: ((before == gold) & (after != gold)).float().mean(),  # of all rows
        ],
    ),
    "10.1": (
        [lambda selection, reported: float(reported[selection.argmin()] - reported.min())],
        [
            lambda selection, reported: reported.min(),
            lambda selection, reported: reported.min() - reported[selection.argmin()],  # the other way round
            lambda selection, reported: reported[selection.argmin()] - selection.min(),  # what another set of rows changes
            lambda selection, reported: reported[selection.argmax()] - reported.min(),
            lambda selection, reported: reported.mean() - reported.min(),
        ],
    ),
    "10.2": (
        [backwards, lambda *given: tuple(backwards(*given))],
        [
            lambda tokens, segments: tokens[::-1],  # across the texts
            lambda tokens, segments: tokens,
            lambda tokens, segments: [t for part in (0, 1) for t, s in zip(tokens, segments, strict=True) if s == part][::-1],
            backwards_in_place,
        ],
    ),
    "10.3": (
        [heads_to_close],
        [
            lambda without, under, loss: int(under.argmax()),  # at any price
            lambda without, under, loss: int((without + under).argmax()),
            lambda without, under, loss: max(n for n in range(len(without)) if without[0] - without[n] <= loss),  # the most heads
            lambda without, under, loss: int(under.masked_fill(without < without.max() - loss, -1).argmax()),  # from the best
            lambda without, under, loss: float(under[heads_to_close(without, under, loss)]),  # the accuracy
        ],
    ),
    "11.1": (
        [rollout, lambda attention: attattr.attention_rollout(attention)],
        [
            lambda attention: rollout(attention)[-1],  # the top alone
            lambda attention: attention.mean(1),  # raw attention
            lambda attention: rollout(attention[:, :1]),  # one head
            lambda attention: 2 * rollout(attention),
            lambda attention: rollout(attention.flip(0)),  # the layers upside down
            lambda attention: torch.stack([attention.mean(1)[0], attention.mean(1)[1] @ attention.mean(1)[0]]),  # no residual connection
        ],
    ),
    "11.2": (
        [lambda lower, upper: torch.minimum(upper[:, :, None], lower[None]).sum(1), flow_by_networkx],
        [
            lambda lower, upper: upper @ lower,  # rollout
            lambda lower, upper: torch.minimum(lower[:, :, None], upper[None]).sum(1),  # the layers in the wrong order
            lambda lower, upper: torch.minimum(upper[:, :, None], lower[None]).amax(1),  # the widest path only
            lambda lower, upper: torch.minimum(upper, lower),
            lambda lower, upper: lower.sum(0).clamp(max=1).expand(2, 2),  # the bound
            lambda lower, upper: flow_by_networkx(lower, upper).T,
        ],
    ),
    "11.3": (
        [flow_from],
        [
            lambda mixed, layer, source: flow_from(mixed, 2, source),  # always from the top
            lambda mixed, layer, source: flow_from(mixed.flip(0), layer, source),  # the layers upside down
            lambda mixed, layer, source: flow_from(mixed.mT, layer, source),  # the edges turned round
            lambda mixed, layer, source: minima(mixed, layer)[source],  # ways that share edges
            lambda mixed, layer, source: torch.linalg.multi_dot([*mixed[: layer + 1].flip(0), torch.eye(3)])[source],  # rollout
            lambda mixed, layer, source: mixed[0].sum(0).clamp(max=1),  # the bound
            lambda mixed, layer, source: [flow / sum(flow_from(mixed, layer, source)) for flow in flow_from(mixed, layer, source)],
        ],
    ),
    "11.4": (
        [leaving],
        [
            lambda mixed, layer, source: leaving(mixed, layer, source).clamp(max=1),
            lambda mixed, layer, source: leaving(mixed, layer, source) + 1 - mixed[0, source, source],  # layer 0 counted, too
            lambda mixed, layer, source: leaving(mixed, layer + 1, source),
            lambda mixed, layer, source: mixed[0, source] + mixed[1 : layer + 1, source, source].sum(),  # what stays
            lambda mixed, layer, source: mixed[0, source],
            lambda mixed, layer, source: mixed[0, :, source] + (1 - mixed[1 : layer + 1, source, source]).sum(),  # a column
        ],
    ),
    "12.1": (
        [ranks, lambda values: torch.tensor(rankdata(values.numpy()))],
        [
            lambda values: values.argsort().argsort() + 1.0,  # ties by their place
            lambda values: values.argsort() + 1.0,
            lambda values: values.unique(return_inverse=True)[1] + 1.0,  # dense
            lambda values: torch.tensor(rankdata(values.numpy(), method="min")),
            lambda values: torch.tensor(rankdata(-values.numpy())),  # the largest first
            lambda values: ranks(values) - 1,  # from 0
        ],
    ),
    "12.2": (
        [masked_first],
        [
            lambda relevance, ordinary, share: masked_first(relevance, torch.ones_like(ordinary), share),  # special tokens, too
            lambda relevance, ordinary, share: masked_first(relevance.abs(), ordinary, share),  # without the sign
            lambda relevance, ordinary, share: masked_first(-relevance, ordinary, share),  # the least relevant
            lambda relevance, ordinary, share: masked_first(relevance, ordinary, int(share * 4) / 4),  # rounded down
            lambda relevance, ordinary, share: masked_first(relevance, ordinary, share * 1.5),  # a share of all tokens
            lambda relevance, ordinary, share: ordinary & ~masked_first(relevance, ordinary, share),  # insertion
        ],
    ),
    "12.3": (
        [rollout_with],
        [
            lambda attention, share: rollout_with(attention, 0.5),
            lambda attention, share: rollout_with(attention, 1 - share),
            lambda attention, share: rollout_with(attention.flip(0), share),  # from the top down
            lambda attention, share: share * torch.eye(2) + (1 - share) * attention[1] @ attention[0],  # the residual once
            lambda attention, share: rollout_with(attention, share)[None],
        ],
    ),
    "13.1": (
        [most_it_adds],
        [
            lambda share, others, head: share({*others, head}) - share({*others}),  # ablating it alone
            lambda share, others, head: share({head}) - share(set()),  # patching it alone
            lambda share, others, head: max(0.0, most_it_adds(share, others, head)),
            lambda share, others, head: most_it_adds(share, others[:-1], head),
            lambda share, others, head: max(share({*some, head}) for some in subsets(others)),
            lambda share, others, head: -most_it_adds(lambda heads: -share(heads), others, head),  # the least
        ],
    ),
    "13.2": (
        [
            precision_and_recall,
            lambda scores, truth, tau: torch.stack(list(map(torch.as_tensor, precision_and_recall(scores, truth, tau)))),
        ],
        [
            lambda scores, truth, tau: precision_and_recall(scores, truth, tau)[::-1],
            lambda scores, truth, tau: precision_and_recall(scores, truth, tau / scores.max()),  # not a share
            lambda scores, truth, tau: precision_and_recall(scores.abs(), truth, tau),
            lambda scores, truth, tau: precision_and_recall(scores, truth, tau)[0],
            lambda scores, truth, tau: [float(truth[scores > tau * scores.max()].float().mean())] * 2,
        ],
    ),
    "13.3": (
        [on_connections],
        [
            lambda mixed: mixed,
            lambda mixed: on_connections(mixed.flip(0)),
            lambda mixed: on_connections(mixed).transpose(1, 2),
            lambda mixed: on_connections(mixed).sum(0),
            lambda mixed: torch.stack([mixed[0] * mixed[1:].flip(0).sum(0)[-1][:, None], *on_connections(mixed)[1:]]),
        ],
    ),
    "14.1": (
        [number_outcome],
        [
            lambda percent, right, rows: number_outcome(100 * percent, right, rows),  # a percentage of a percentage
            lambda percent, right, rows: number_outcome(percent, right, 100 * rows),
            lambda percent, right, rows: wald_outcome(percent, right, rows),
            lambda percent, right, rows: "same" if abs(percent - 100 * right / rows) < 5 else "differs",
            lambda percent, right, rows: number_outcome(percent, right, rows) == "same",
        ],
    ),
    "14.2": (
        [over_tasks],
        [
            lambda holds: "same" if all(holds) else "partly" if any(holds) else "differs",  # nothing tested
            lambda holds: over_tasks([any(holds)] if holds else []),
            lambda holds: over_tasks([all(holds)] if holds else []),
            lambda holds: over_tasks(holds[:1]),
        ],
    ),
    "14.3": (
        [average_change],
        [
            lambda rows, label: average_change(rows, label) / 100,
            lambda rows, label: -average_change(rows, label),
            lambda rows, label: average_change(rows, label, own=False),
            lambda rows, label: average_change(rows, label, kinds=("chosen", "random words", "chosen on these rows")),
            lambda rows, label: average_change([row for row in rows if row["rank"] in (None, 1)], label),  # the best trigger alone
        ],
    ),
    "14.4": (
        [does_not_follow],
        [
            lambda before, after, printed: does_not_follow(before, after, printed, 0.001),
            lambda before, after, printed: does_not_follow(before, after, [-abs(one) for one in printed]),
            lambda before, after, printed: [one + 1 for one in does_not_follow(before, after, printed)],  # counted from 1
            lambda before, after, printed: len(does_not_follow(before, after, printed)),
        ],
    ),
    "15.1": (
        [merge],
        [
            lambda scores, word_of: member_of(word_of).T @ scores,  # only those that attend
            lambda scores, word_of: scores @ member_of(word_of),
            lambda scores, word_of: merge(scores, word_of).T,
            lambda scores, word_of: (member_of(word_of) / member_of(word_of).sum(0)).T @ scores @ member_of(word_of),  # as of attention
        ],
    ),
    "15.2": (
        [lambda predicted, gold, cue: min(groups_of(predicted, gold, cue)), lambda *given: torch.stack(groups_of(*given)).min()],
        [
            lambda predicted, gold, cue: (predicted == gold).double().mean(),  # of all
            lambda predicted, gold, cue: torch.stack(groups_of(predicted, gold, cue)).mean(),
            lambda predicted, gold, cue: min((predicted == gold)[cue == has].double().mean() for has in cue.unique()),
            lambda predicted, gold, cue: min((predicted == gold)[gold == label].double().mean() for label in gold.unique()),
            lambda predicted, gold, cue: min(groups_of(predicted, gold, cue, classes=range(2))),  # not of every class
        ],
    ),
    "15.3": (
        [lambda layers, nodes, chosen: layers + sum(nodes * (layers - layer) for layer in chosen)],
        [
            lambda layers, nodes, chosen: nodes * sum(layers - layer for layer in chosen),  # without the recording
            lambda layers, nodes, chosen: layers + nodes * sum(layers - layer - 1 for layer in chosen),
            lambda layers, nodes, chosen: layers + nodes * sum(layer + 1 for layer in chosen),  # those below
            lambda layers, nodes, chosen: layers + nodes * layers * len(chosen),
        ],
    ),
}
NUMBERS = list(ANSWERS)
RIGHT = [pytest.param(number, answer, id=f"{number}-{i}") for number in NUMBERS for i, answer in enumerate(ANSWERS[number][0])]
WRONG = [pytest.param(number, answer, id=f"{number}-{i}") for number in NUMBERS for i, answer in enumerate(ANSWERS[number][1])]
STRANGE = [float("nan"), "words", {}, [], [None], [["a", 1]], [[], [1]], 1j, print, torch.zeros(3, 0), 10**400]
IN_PLACE = {
    "1.3": swapped_in_place,
    "2.2": cut_in_place,
    "7.4": infinity_left_behind,
    "9.2": into_the_same_list,
    "10.2": backwards_in_place,
}


def test_every_exercise_has_answers_here():
    assert list(EXERCISES) == NUMBERS


@pytest.mark.parametrize(("number", "answer"), RIGHT)
def test_a_right_answer_is_told_so(number, answer, capsys):
    check(number, answer)
    check(number, answer)  # the first time has used up nothing
    assert capsys.readouterr().out == f"Exercise {number}: right\n" * 2


def as_lists(value):
    return value.tolist() if isinstance(value, torch.Tensor | np.ndarray) else value


CONVERSIONS = {
    "double": lambda value: torch.as_tensor(value).double(),
    "numpy": lambda value: np.asarray(value),
    "lists": as_lists,
}


@pytest.mark.parametrize("holder", CONVERSIONS)
@pytest.mark.parametrize("number", [number for number in NUMBERS if number not in ("6.1", "9.1", "9.2", "10.2", "14.1", "14.2")])
def test_a_right_answer_may_come_in_any_holder_and_precision(number, holder, capsys):
    check(number, lambda *given: CONVERSIONS[holder](ANSWERS[number][0][0](*given)))
    assert capsys.readouterr().out == f"Exercise {number}: right\n"


def test_one_number_may_come_as_a_tensor_of_one_entry_but_not_of_more(capsys):
    check("2.1", lambda *given: torch.tensor([share_on(*given)]))
    assert "right" in capsys.readouterr().out
    with pytest.raises(AssertionError, match=r"2\.1: expected 0\.25, got \[0\.25, 0\.25\]"):
        check("2.1", lambda *given: torch.tensor([share_on(*given)] * 2))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_stub_does_not_stop_the_notebook(number, capsys):
    check(number, lambda *_: ...)
    assert capsys.readouterr().out == f"Exercise {number}: not filled in yet\n"


@pytest.mark.parametrize(("number", "wrong"), WRONG)
def test_a_mistake_raises_and_shows_what_was_expected_what_came_and_for_what(number, wrong, capsys):
    with pytest.raises(AssertionError, match=rf"^Exercise {re.escape(number)}: expected .*, got .*, (for|at) \w+ = "):
        check(number, wrong)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("strange", STRANGE, ids=lambda one: repr(one)[:20])
def test_an_answer_of_a_strange_kind_is_wrong_and_no_crash(number, strange):
    with pytest.raises(AssertionError, match=rf"^Exercise {re.escape(number)}: expected .*, got .*, for "):
        check(number, lambda *_: strange)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_forgotten_return_is_named(number):
    with pytest.raises(AssertionError, match=rf"^Exercise {re.escape(number)}: not filled in, or no `return`: expected .*, got None, for "):
        check(number, lambda *_: None)


@pytest.mark.parametrize(("number", "answer"), IN_PLACE.items())
def test_a_changed_input_is_named_and_harms_no_later_check(number, answer, capsys):
    with pytest.raises(AssertionError, match=r"expected \w+ left as it is, got a changed input, for "):
        check(number, answer)
    check(number, ANSWERS[number][0][0])
    assert capsys.readouterr().out == f"Exercise {number}: right\n"


def test_a_tree_may_not_be_changed_either():
    with pytest.raises(AssertionError, match=r"5\.3: expected tree left as it is"):
        check("5.3", lambda tree, layers, tokens: tree.clear() or torch.zeros(layers, tokens, tokens))


def test_a_message_shows_a_long_value_by_its_beginning_and_shape():
    with pytest.raises(AssertionError, match=r"expected .* of the shape \(2, 4, 3, 5\), got .* of the shape \(2, 3, 4, 5\), for attention"):
        check("1.1", lambda attention, value: attention @ value)


def test_a_function_that_comes_as_an_answer_is_shown():
    with pytest.raises(AssertionError, match=r"7\.3: expected 38, got '<function .*lambda"):
        check("7.3", lambda *_: lambda: 38)


def test_what_an_answer_raises_reaches_the_reader():
    with pytest.raises(ZeroDivisionError):
        check("7.3", lambda D, d: D / 0)


def test_what_is_no_exercise_or_no_function_is_refused():
    with pytest.raises(KeyError, match=r"no exercise '7\.9': expected one of 1\.1, 1\.2, .*12\.3"):
        check("7.9", print)
    with pytest.raises(TypeError, match=r"Exercise 7\.3: expected the function itself, without arguments, got 38"):
        inspect.unwrap(check)("7.3", 38)  # without the type checks of the tests


def calls_by_chapter():
    """The exercise numbers that each chapter checks, and whether it still has a check in the old way."""
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        yield path.stem, re.findall(r'\bcheck\("([\d.]+)"', code), bool(re.search(r"\bcheck_\w+\(", code))


def test_chapters_and_table_have_the_same_exercises():
    used, old = [], False
    for chapter, numbers, in_the_old_way in calls_by_chapter():
        assert all(int(number.split(".")[0]) == int(chapter[:2]) for number in numbers), chapter
        used, old = used + numbers, old or in_the_old_way
    assert set(used) <= set(EXERCISES)
    if not old:  # no chapter is left to port
        assert {number: used.count(number) for number in EXERCISES} == dict.fromkeys(EXERCISES, 2)  # stub and solution
