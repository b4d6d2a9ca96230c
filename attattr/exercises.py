"""The visible checks that readers run on their answers.

Each check takes the reader's function. Not filled in yet (it returns ``...``): the check says so and lets the notebook
go on. Wrong: an ``AssertionError`` shows what was expected and what came. Right: the check says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import networkx as nx
import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from .attribution import Attribution


def report(name: str, got: object, expected: object, right: bool) -> None:
    """Print or raise the verdict on one answer."""
    if got is ...:
        print(f"{name}: not filled in yet")
        return
    if not right:
        raise AssertionError(f"{name}: expected {expected}, got {got}")
    print(f"{name}: right")


def check_right_sums(right_sums: Callable[[Callable[[float], Tensor], int], Tensor]) -> None:
    """Exercise 3.1: ``right_sums(gradient, m)`` is the mean of ``gradient(α)`` at α = 1/m, 2/m ... 1 (chapter 3)."""
    for steps in (1, 4, 20):
        got = right_sums(lambda alpha: torch.tensor([alpha, alpha**2]), steps)
        expected = torch.tensor([(steps + 1) / (2 * steps), (steps + 1) * (2 * steps + 1) / (6 * steps**2)])
        right = isinstance(got, Tensor) and bool(torch.allclose(got.float(), expected, atol=1e-5))
        if got is ... or not right:
            break
    report("Exercise 3.1", got, f"{expected.tolist()} for the gradient (α, α²) and m = {steps}", right)


def check_completeness_gap(completeness_gap: Callable[[Attribution], Tensor]) -> None:
    """Exercise 3.2: ``completeness_gap(att)`` is |Σ Attr - (F(A) - F(0))| for each layer, "L" (chapter 3)."""
    scores = torch.tensor([[[[0.5, -0.25], [0.0, 0.25]]], [[[0.1, 0.1], [0.1, 0.1]]]])  # 2 layers, 1 head, 2 tokens
    zero = torch.zeros(2)
    att = Attribution(
        scores=scores,
        attention=scores.abs(),
        tokens=("a", "b"),
        text="a b",
        target=0,
        label="yes",
        probabilities=torch.tensor([0.9, 0.1]),
        difference=torch.tensor([0.75, 0.4]),
        completeness=zero,
        error=zero,
        evaluations=torch.ones(2, dtype=torch.long),
        method="riemann",
        tolerance=0.01,
    )
    expected = torch.tensor([0.25, 0.0])
    got = completeness_gap(att)
    right = isinstance(got, Tensor) and got.shape == expected.shape and bool(torch.allclose(got, expected, atol=1e-6))
    report("Exercise 3.2", got, f"{expected.tolist()}, one number for each of the two layers", right)


def check_trapezoid(trapezoid: Callable[[Callable[[float], Tensor], int], Tensor]) -> None:
    """Exercise 3.3: ``trapezoid(gradient, m)`` is the mean of the left and the right sum, from m + 1 gradients (chapter 3)."""
    for steps in (1, 5):
        asked: list[float] = []

        def gradient(alpha: float, asked: list[float] = asked) -> Tensor:
            asked.append(alpha)
            return torch.tensor(alpha**2)

        got = trapezoid(gradient, steps)
        expected = 1 / 3 + 1 / (6 * steps**2)
        right = got is not ... and abs(float(got) - expected) < 1e-5 and len(asked) == steps + 1
        if not right:
            break
    answer = got if got is ... else f"{float(got):.5f} from {len(asked)} gradients"
    report("Exercise 3.3", answer, f"{expected:.5f} from {steps + 1} gradients", right)


def check_context(context: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 1.1: ``context(attention, value)`` is A V of every head, "B N H d" (chapter 1)."""
    generator = torch.Generator().manual_seed(0)
    attention = torch.rand(2, 3, 4, 4, generator=generator).softmax(-1)
    value = torch.randn(2, 3, 4, 5, generator=generator)
    expected = torch.stack([(attention[:, :, i, :, None] * value).sum(2) for i in range(4)], dim=1)
    got = context(attention, value)
    right = isinstance(got, Tensor) and got.shape == expected.shape and bool(torch.allclose(got, expected, atol=1e-5))
    if isinstance(got, Tensor) and got.shape != expected.shape:
        report("Exercise 1.1", f"shape {tuple(got.shape)}", f"shape {tuple(expected.shape)} (B N H d)", False)
    report("Exercise 1.1", got, expected, right)


def check_swap_first_row(swap_first_row: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 1.2: ``swap_first_row(context, donor)`` takes the row of [CLS] from ``donor`` (chapter 1)."""
    context, donor = torch.zeros(1, 3, 2, 2), torch.ones(1, 4, 2, 2)
    got = swap_first_row(context, donor)
    expected = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(1, 3, 2, 2)
    right = isinstance(got, Tensor) and got.shape == expected.shape and bool((got == expected).all())
    if context.any() or not donor.all():
        report("Exercise 1.2", "changed inputs", "inputs left as they are", False)
    report("Exercise 1.2", got, f"ones in row 0 and zeros elsewhere, shape {tuple(expected.shape)}", right)


def check_share_on(share_on: Callable[[Tensor, Sequence[str], str], float]) -> None:
    """Exercise 2.1: ``share_on(scores, tokens, token)`` is the share of the scores' size that goes to a token (chapter 2)."""
    scores = torch.tensor([[3.0, -1.0, 0.0], [0.0, 2.0, -2.0], [0.0, 0.0, 0.0]])[None, None]  # sizes of the columns: 3, 3, 2
    for tokens, token, expected in ((("a", "b", "c"), "c", 0.25), (("a", "b", "a"), "a", 0.625), (("a", "b", "c"), "x", 0.0)):
        got = share_on(scores, tokens, token)
        right = got is not ... and abs(float(got) - expected) < 1e-6
        if not right:
            break
    report("Exercise 2.1", got, f"{expected} for {token!r} among {tokens}, with scores {scores[0, 0].tolist()}", right)


def check_without_largest(without_largest: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """Exercise 2.2: ``without_largest(attention, scores, count)`` sets the connections with the largest scores to zero (chapter 2)."""
    attention, scores = torch.tensor([[0.5, 0.5], [0.2, 0.8]]), torch.tensor([[0.1, 0.4], [-0.9, 0.3]])
    for count, expected in ((0, attention.clone()), (2, torch.tensor([[0.5, 0.0], [0.2, 0.0]]))):
        got = without_largest(attention, scores, count)
        right = isinstance(got, Tensor) and got.shape == expected.shape and bool(torch.allclose(got, expected))
        if not right:
            break
    if not attention.all():
        report("Exercise 2.2", "a changed input", "attention left as it is", False)
    report("Exercise 2.2", got, f"{expected.tolist()} for count = {count} and scores {scores.tolist()}", right)


def check_peak(peak: Callable[[Tensor], Tensor]) -> None:
    """Exercise 5.1: ``peak(attention)`` is the largest weight of a row, in the mean over the rows of each head, "L H" (chapter 5)."""
    attention = torch.tensor([[[0.9, 0.1], [0.6, 0.4]], [[1.0, 0.0], [0.7, 0.3]]])[None]  # one layer, two heads, two tokens
    got, expected = peak(attention), torch.tensor([[0.75, 0.85]])
    right = isinstance(got, Tensor) and got.shape == expected.shape and bool(torch.allclose(got, expected))
    report("Exercise 5.1", got, f"{expected.tolist()} for attention {attention.tolist()}", right)


def check_values_without_label(values_without_label: Callable[[Sequence[Attribution]], Tensor]) -> None:
    """Exercise 5.2: ``values_without_label(atts)`` is max Attr_h(A) towards the class that the model chose, "B L H" (chapter 5)."""
    scores = torch.tensor([[[[0.5, -0.75], [0.0, 0.25]], [[-0.1, -0.2], [-0.3, -0.4]]]])  # one layer, two heads, two tokens
    nothing = torch.zeros(1)
    atts = [
        Attribution(
            scores=sign * scores,
            attention=scores.abs(),
            tokens=("a", "b"),
            text="a b",
            target=target,
            label=label,
            probabilities=torch.tensor([0.5, 0.5]),
            difference=nothing,
            completeness=nothing,
            error=nothing,
            evaluations=torch.ones(1, dtype=torch.long),
            method="riemann",
            tolerance=0.01,
        )
        for sign, target, label in ((1, 1, "positive"), (-1, 0, "negative"))
    ]
    got, expected = values_without_label(atts), torch.tensor([[[0.5, -0.1]], [[0.75, 0.4]]])
    right = isinstance(got, Tensor) and got.shape == expected.shape and bool(torch.allclose(got, expected))
    report("Exercise 5.2", got, f"{expected.tolist()} for two texts with the scores {scores.tolist()} and their negative", right)


def check_tree_edges(tree_edges: Callable[[nx.DiGraph, int, int], Tensor]) -> None:
    """Exercise 5.3: ``tree_edges(tree, layers, tokens)`` is the tree as a mask of connections, "L N N" (chapter 5)."""
    tree = nx.DiGraph([(3, 1, {"layer": 2}), (1, 0, {"layer": 1}), (3, 2, {"layer": 1})])
    got, expected = tree_edges(tree, 2, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    expected[1, 3, 1] = expected[0, 1, 0] = expected[0, 3, 2] = True
    if isinstance(got, Tensor) and got.shape != expected.shape:
        report("Exercise 5.3", f"shape {tuple(got.shape)}", f"shape {tuple(expected.shape)} (L N N)", False)
    right = isinstance(got, Tensor) and bool((got == expected).all())
    answer = got.nonzero().tolist() if isinstance(got, Tensor) else got
    report("Exercise 5.3", answer, f"{expected.nonzero().tolist()} as [layer from 0, parent, child]", right)


def check_admitted_distances(admitted_distances: Callable[[Bool[np.ndarray, "L N N"]], Sequence[Sequence[int]]]) -> None:
    """Exercise 6.1: ``admitted_distances(kept)`` is, for each layer, the |i - j| of all connections kept, but i = j (chapter 6)."""
    kept = np.zeros((3, 5, 5), dtype=bool)
    kept[0, 1, 4] = kept[0, 4, 1] = kept[0, 2, 2] = kept[0, 3, 2] = kept[2, 0, 4] = True
    got, expected = admitted_distances(kept), [[1, 3, 3], [], [4]]
    answer = got if got is ... else [sorted(int(distance) for distance in layer) for layer in got]
    report("Exercise 6.1", answer, f"{expected}, in any order, for {np.argwhere(kept).tolist()} as [layer, i, j]", answer == expected)


def check_mean_distance(mean_distance: Callable[[int, int], float]) -> None:
    """Exercise 6.2: ``mean_distance(i, N)`` is the mean distance from place i to the N - 1 others (chapter 6)."""
    for place, tokens in ((0, 2), (0, 9), (4, 9), (7, 12)):
        got, expected = mean_distance(place, tokens), sum(abs(place - other) for other in range(tokens)) / (tokens - 1)
        right = got is not ... and abs(float(got) - expected) < 1e-6
        if not right:
            break
    report("Exercise 6.2", got, f"{expected:.3f} from place {place} of {tokens}", right)


def check_resampled_mean(resampled_mean: Callable[[Sequence[Sequence[int]], Sequence[int]], float]) -> None:
    """Exercise 6.3: ``resampled_mean(of_texts, chosen)`` is the mean over all edges of the texts chosen, repeats counted (chapter 6)."""
    of_texts = [[1, 1, 1], [4], []]
    for chosen, expected in (([0, 1, 2], 7 / 4), ([1, 1, 0], 11 / 5), ([2, 1, 1], 4.0)):
        got = resampled_mean(of_texts, chosen)
        right = got is not ... and abs(float(got) - expected) < 1e-6
        if not right:
            break
    report("Exercise 6.3", got, f"{expected:.3f} for the texts {chosen} of {of_texts}", right)


def check_head_weights(head_weights: Callable[[int, int], int]) -> None:
    """Exercise 7.1: ``head_weights(D, d)`` is the number of weights that are cut out with one head of size d (chapter 7)."""
    for width, size in ((4, 2), (384, 32), (768, 64)):
        layer = [torch.nn.Linear(width, size) for _ in range(3)] + [torch.nn.Linear(size, width, bias=False)]
        got, expected = head_weights(width, size), sum(weight.numel() for linear in layer for weight in linear.parameters())
        right = got is not ... and got == expected
        if not right:
            break
    report("Exercise 7.1", got, f"{expected} for D = {width} and d = {size}", right)


def check_keep_one(keep_one: Callable[[Tensor, int], Tensor]) -> None:
    """Exercise 7.2: ``keep_one(importance, count)`` prunes the least important heads but the best of each layer, "L H" (chapter 7)."""
    importance = torch.tensor([[1.0, 3.0, 2.0], [9.0, 4.0, 8.0], [5.0, 7.0, 6.0]])
    before = importance.clone()
    for count, gone in ((0, []), (2, [(0, 0), (0, 2)]), (4, [(0, 0), (0, 2), (1, 1), (2, 0)])):
        got, expected = keep_one(importance, count), torch.ones(3, 3, dtype=torch.bool)
        for head in gone:
            expected[head] = False
        right = isinstance(got, Tensor) and got.shape == expected.shape and bool((got == expected).all())
        if not right:
            break
    if not torch.equal(importance, before):
        report("Exercise 7.2", "a changed input", "importance left as it is", False)
    answer = got.tolist() if isinstance(got, Tensor) else got
    report("Exercise 7.2", answer, f"{expected.tolist()} for count = {count} and importance {importance.tolist()}", right)


def check_prune_in_steps(prune_in_steps: Callable[[Callable[[Tensor], Tensor], Tensor, int, int], Tensor]) -> None:
    """Exercise 7.3: ``prune_in_steps(measure, keep, each, steps)`` prunes ``each`` heads by ``measure(keep)``, in each step (chapter 7)."""

    def measure(keep: Tensor) -> Tensor:  # the second head stands in for the first; what is gone looks important
        return torch.tensor([[1.0, 2.0 if keep[0, 0] else 8.0], [4.0, 5.0]]).masked_fill(~keep, 9.0)

    for start, each, steps, left in (
        ([[True, True], [True, True]], 1, 2, [[False, True], [False, True]]),
        ([[True, True], [True, True]], 2, 1, [[False, False], [True, True]]),
        ([[True, True], [True, False]], 1, 2, [[False, True], [False, False]]),
    ):
        got = prune_in_steps(measure, torch.tensor(start), each, steps)
        answer = got.tolist() if isinstance(got, Tensor) else got
        if answer != left:
            break
    report("Exercise 7.3", answer, f"{left} after {steps} steps of {each} head(s) from {start}", answer == left)


def check_within_layers(within_layers: Callable[[Tensor], Tensor]) -> None:
    """Exercise 8.1: ``within_layers(importance)`` is what each head has above the mean of its layer, "L H" (chapter 8)."""
    importance = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 2.0]])  # two layers of three heads
    got, expected = within_layers(importance), torch.tensor([[-2.0, -1.0, 3.0], [1.0, 1.0, -2.0]])
    right = isinstance(got, Tensor) and got.shape == expected.shape and bool(torch.allclose(got, expected, atol=1e-6))
    report("Exercise 8.1", got, f"{expected.tolist()} for two layers of three heads, {importance.tolist()}", right)


def check_ceiling(ceiling: Callable[[Tensor], float]) -> None:
    """Exercise 8.2: ``ceiling(samples)`` is the mean of Pearson's r over all pairs of different samples, from "S L H" (chapter 8)."""
    samples = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(0))
    for some in (samples[:2], samples):
        got, every = ceiling(some), np.corrcoef(some.flatten(1).numpy())
        expected = float(every[np.triu_indices(len(some), 1)].mean())
        right = got is not ... and abs(float(got) - expected) < 1e-4
        if not right:
            break
    report("Exercise 8.2", got, f"{expected:.4f}, the mean over {len(some) * (len(some) - 1) // 2} pairs of {len(some)} samples", right)


def check_shared_by_chance(shared_by_chance: Callable[[int, int, int], float]) -> None:
    """Exercise 8.3: ``shared_by_chance(heads, count, tasks)``: heads in all of the tasks' random choices, on average (chapter 8)."""
    for heads, count, tasks, expected in ((10, 5, 1, 5.0), (10, 5, 2, 2.5), (6, 6, 4, 6.0), (10, 5, 3, 1.25)):
        got = shared_by_chance(heads, count, tasks)
        right = got is not ... and abs(float(got) - expected) < 1e-6
        if not right:
            break
    report("Exercise 8.3", got, f"{expected} when each of {tasks} tasks draws {count} of {heads} heads", right)


def check_put_in(put_in: Callable[[Sequence[str], Sequence[str], Sequence[float]], Sequence[str]]) -> None:
    """Exercise 9.1: ``put_in(words, new, positions)`` is the words with each new one at its relative position (chapter 9)."""
    words = ["it", "rained", "all", "night"]
    for new, positions, places in (  # places counted from 1, in the longer sentence
        (("not",), (0.5,), (2,)),
        (("never", "boring"), (0.5, 1.0), (3, 6)),
        (("hardly",), (0.05,), (1,)),  # rounds to 0: the first place
        (("with", "math"), (0.6, 0.65), (4, 5)),  # both round to 4: the second takes the next
        (("not", "at", "all"), (0.5, 0.5, 0.6), (4, 5, 6)),  # the next one may be taken, too
        (("no", "one", "at", "all"), (0.25, 1.0, 1.0, 1.0), (2, 6, 7, 8)),  # none is left outside
    ):
        given = list(words)
        got = put_in(given, new, positions)
        taken, rest = dict(zip(places, new, strict=True)), iter(words)
        expected = [taken[place] if place in taken else next(rest) for place in range(1, len(words) + len(new) + 1)]
        right = got is not ... and list(got) == expected
        if given != words:
            report("Exercise 9.1", "a changed list", "words left as they are", False)
        if not right:
            break
    report("Exercise 9.1", got, f"{expected} for {new} at {positions}", right)


def check_flip_rate(flip_rate: Callable[[Tensor, Tensor, Tensor], float]) -> None:
    """Exercise 9.2: ``flip_rate(gold, before, after)`` is the share of the rows first right that are wrong with a trigger (chapter 9)."""
    gold, before = torch.tensor([0, 0, 1, 1, 2, 2, 0, 1]), torch.tensor([0, 1, 1, 1, 0, 2, 0, 1])
    for changed, expected in (([0, 0, 2, 1, 2, 2, 0, 0], 2 / 6), ([0, 1, 1, 1, 0, 2, 0, 1], 0.0), ([2, 0, 0, 0, 2, 1, 1, 2], 1.0)):
        got = flip_rate(gold, before, torch.tensor(changed))
        right = got is not ... and abs(float(got) - expected) < 1e-6
        if not right:
            break
    report("Exercise 9.2", got, f"{expected:.3f} for labels {gold.tolist()}, before {before.tolist()}, after {changed}", right)


def check_flattery(flattery: Callable[[Tensor, Tensor], float]) -> None:
    """Exercise 9.3: ``flattery(selection, reported)``: what the best of all triggers gains if chosen on the reported rows (chapter 9)."""
    for selection, reported, expected in (
        ([0.5, 0.2, 0.4], [0.45, 0.3, 0.1], 0.2),
        ([0.5, 0.2, 0.4], [0.45, 0.1, 0.3], 0.0),
        ([0.1, 0.9], [0.7, 0.2], 0.5),
    ):
        got = flattery(torch.tensor(selection), torch.tensor(reported))
        right = got is not ... and abs(float(got) - expected) < 1e-5
        if not right:
            break
    report("Exercise 9.3", got, f"{expected} for accuracies {selection} on the selection and {reported} on the reported rows", right)


def check_flow_of_two(flow_of_two: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Exercise 10.1: ``flow_of_two(lower, upper)`` is the maximum flow through two layers, "N N", from Ã¹ and Ã² (chapter 10)."""
    lower, upper = torch.tensor([[0.75, 0.25], [0.125, 0.875]]), torch.tensor([[0.625, 0.375], [0.25, 0.75]])
    got, expected = flow_of_two(lower, upper), torch.tensor([[0.75, 0.625], [0.375, 1.0]])
    right = isinstance(got, Tensor) and got.shape == expected.shape and bool(torch.allclose(got.float(), expected))
    answer = got.tolist() if isinstance(got, Tensor) else got
    report("Exercise 10.1", answer, f"{expected.tolist()} for Ã¹ = {lower.tolist()} and Ã² = {upper.tolist()}", right)


def check_ranks(ranks: Callable[[Tensor], Tensor]) -> None:
    """Exercise 10.2: ``ranks(values)``: from 1 for the smallest up, equal values share the mean of their ranks, "N" (chapter 10)."""
    for values, expected in (
        ([0.3, -0.1, 0.2], [3.0, 1.0, 2.0]),
        ([1.0, 1.0, 1.0, 2.0, 3.0, 3.0], [2.0, 2.0, 2.0, 4.0, 5.5, 5.5]),
        ([0.5, 0.0, 0.5], [2.5, 1.0, 2.5]),
    ):
        got = ranks(torch.tensor(values))
        right = isinstance(got, Tensor) and got.tolist() == expected
        if not right:
            break
    report("Exercise 10.2", got.tolist() if isinstance(got, Tensor) else got, f"{expected} for {values}", right)


def check_rollout_with(rollout_with: Callable[[Tensor, float], Tensor]) -> None:
    """Exercise 10.3: ``rollout_with(attention, share)`` is rollout to the top with this share for the residual, "N N" (chapter 10)."""
    attention = torch.tensor([[[0.5, 0.5], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])  # two layers of two tokens
    for share, expected in ((1.0, [[1, 0], [0, 1]]), (0.0, [[0, 1], [0.5, 0.5]]), (0.75, [[0.65625, 0.34375], [0.21875, 0.78125]])):
        got = rollout_with(attention, share)
        right = isinstance(got, Tensor) and got.shape == (2, 2) and bool(torch.allclose(got.double(), torch.tensor(expected).double()))
        if not right:
            break
    report("Exercise 10.3", got.tolist() if isinstance(got, Tensor) else got, f"{expected} for a share of {share}", right)
