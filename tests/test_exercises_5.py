"""The checks of chapter 5's exercises: right answers pass, stubs do not stop the notebook, the likely mistakes are caught."""

from __future__ import annotations

import pytest
import torch

from attattr.effectiveness import largest_attention, largest_attribution
from attattr.exercises import check_peak, check_tree_edges, check_values_without_label


def tree_mask(tree, layers, tokens, first=1, turned=False):
    mask = torch.zeros(layers, tokens, tokens, dtype=torch.bool)
    for parent, child, layer in tree.edges(data="layer"):
        i, j = (child, parent) if turned else (parent, child)
        mask[(layer - first) % layers, i, j] = True
    return mask


def test_right_answers_are_told_so(capsys):
    check_peak(lambda attention: torch.stack([torch.stack([head.max(1).values.mean() for head in layer]) for layer in attention]))
    check_values_without_label(lambda atts: torch.stack([largest_attribution(att) for att in atts]))
    check_tree_edges(tree_mask)
    assert capsys.readouterr().out.splitlines() == [f"Exercise 5.{i}: right" for i in (1, 2, 3)]


def test_stubs_do_not_stop_the_notebook(capsys):
    check_peak(lambda attention: ...)
    check_values_without_label(lambda atts: ...)
    check_tree_edges(lambda tree, layers, tokens: ...)
    assert capsys.readouterr().out.count("not filled in yet") == 3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda attention: attention.mean((2, 3)),  # 1/N
        lambda attention: attention.amax((2, 3)),  # of the whole head
        lambda attention: attention.amax(-2).mean(-1),  # of the columns
    ],
)
def test_other_means_of_attention_are_refused(wrong):
    with pytest.raises(AssertionError, match=r"5\.1: expected .*, got"):
        check_peak(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda atts: torch.stack([largest_attention(att) for att in atts]),
        lambda atts: torch.stack([att.scores.abs().amax((2, 3)) for att in atts]),  # against counts as for
        lambda atts: torch.stack([largest_attribution(att) for att in atts]).mean(0),  # one order for all
        lambda atts: torch.stack([att.scores.amax((2, 3)) * (1 if att.target else -1) for att in atts]),  # towards class 1
    ],
)
def test_other_orders_of_the_heads_are_refused(wrong):
    with pytest.raises(AssertionError, match=r"5\.2: expected .*, got"):
        check_values_without_label(wrong)


def test_trees_turned_or_moved_by_a_layer_are_refused():
    with pytest.raises(AssertionError, match=r"5\.3: expected .*, got"):
        check_tree_edges(lambda *given: tree_mask(*given, turned=True))
    with pytest.raises(AssertionError, match=r"5\.3: expected .*, got"):
        check_tree_edges(lambda *given: tree_mask(*given, first=0))
    with pytest.raises(AssertionError, match=r"5\.3: expected shape \(2, 4, 4\) .*, got shape \(4, 4\)"):
        check_tree_edges(lambda *given: tree_mask(*given).any(0))
