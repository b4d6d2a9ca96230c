"""The checks of chapter 10's exercises: right answers pass, stubs do not stop the notebook, the likely mistakes are caught."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from scipy.stats import rankdata

from attattr.exercises import check_flow_of_two, check_ranks, check_rollout_with


def flow_by_networkx(lower, upper):
    """Both layers as a graph, one pair at a time."""
    n, graph = len(lower), nx.DiGraph()
    for i in range(n):
        for j in range(n):
            graph.add_edge((2, i), (1, j), capacity=float(upper[i, j]))
            graph.add_edge((1, i), (0, j), capacity=float(lower[i, j]))
    return torch.tensor([[nx.maximum_flow_value(graph, (2, u), (0, v)) for v in range(n)] for u in range(n)])


def rollout_by_matrix_products(attention, share):
    mixed = share * torch.eye(attention.shape[-1]) + (1 - share) * attention
    return torch.linalg.multi_dot([*mixed.flip(0)])


def test_right_answers_are_told_so(capsys):
    check_flow_of_two(flow_by_networkx)
    check_ranks(lambda values: torch.tensor(rankdata(values.numpy())))
    check_rollout_with(rollout_by_matrix_products)
    assert capsys.readouterr().out.splitlines() == [f"Exercise 10.{i}: right" for i in (1, 2, 3)]


def test_stubs_do_not_stop_the_notebook(capsys):
    check_flow_of_two(lambda lower, upper: ...)
    check_ranks(lambda values: ...)
    check_rollout_with(lambda attention, share: ...)
    assert capsys.readouterr().out.count("not filled in yet") == 3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda lower, upper: upper @ lower,  # rollout
        lambda lower, upper: torch.minimum(lower[:, :, None], upper[None]).sum(1),  # the layers in the wrong order
        lambda lower, upper: torch.minimum(upper[:, :, None], lower[None]).amax(1),  # the widest path only
        lambda lower, upper: torch.minimum(upper, lower),
        lambda lower, upper: lower.sum(0).clamp(max=1).expand(2, 2),  # the bound
        lambda lower, upper: flow_by_networkx(lower, upper).T,
    ],
)
def test_other_flows_are_refused(wrong):
    with pytest.raises(AssertionError, match=r"10\.1: expected \[\[0\.75, 0\.625\], .* for Ã¹ = .*, got"):
        check_flow_of_two(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda values: values.argsort().argsort() + 1.0,  # ties by their place
        lambda values: values.argsort() + 1.0,
        lambda values: values.unique(return_inverse=True)[1] + 1.0,  # dense
        lambda values: torch.tensor(rankdata(values.numpy(), method="min")).double(),
        lambda values: torch.tensor(rankdata(-values.numpy())),  # the largest first
        lambda values: torch.tensor(rankdata(values.numpy())) - 1,  # from 0
    ],
)
def test_other_ranks_are_refused(wrong):
    with pytest.raises(AssertionError, match=r"10\.2: expected \[.*\] for \[.*\], got \["):
        check_ranks(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda attention, share: rollout_by_matrix_products(attention, 0.5),
        lambda attention, share: rollout_by_matrix_products(attention, 1 - share),
        lambda attention, share: rollout_by_matrix_products(attention.flip(0), share),  # from the top down
        lambda attention, share: share * torch.eye(2) + (1 - share) * attention[1] @ attention[0],  # the residual once
        lambda attention, share: torch.stack([rollout_by_matrix_products(attention, share)]),
    ],
)
def test_other_rollouts_are_refused(wrong):
    with pytest.raises(AssertionError, match=r"10\.3: expected .* for a share of .*, got"):
        check_rollout_with(wrong)
