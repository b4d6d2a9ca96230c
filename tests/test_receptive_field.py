"""Distances are those of the graph's edges, layer by layer."""

import numpy as np
import pytest
import torch
from test_graph import attention_edges, made, random_attribution

from attattr.graph import attribution_graph, receptive_field


def test_a_small_field_by_hand():
    a = np.zeros((2, 5, 5))
    a[1, 0, 1], a[1, 0, 3], a[1, 0, 0] = 1.0, 0.5, 0.9  # distances 1 and 3; a token's look at itself is none
    a[0, 1, 3], a[0, 3, 2], a[0, 2, 1] = 1.0, 0.5, 0.1  # 2 and 1; the last is below tau
    found = receptive_field(made(a, tokens=("[CLS]", "a", "b", "c", "d")))
    assert [sorted(d.tolist()) for d in found.distances] == [[1, 2], [1, 3]]
    assert found.mean.tolist() == [1.5, 2.0]


def test_several_texts_are_counted_together():
    atts = [random_attribution(seed) for seed in range(4)]
    found = receptive_field(atts, tau=0.2)
    expected = [[] for _ in range(4)]
    for att in atts:
        for (level, i), (_, j) in attention_edges(attribution_graph(att, 0.2)):
            if i != j:
                expected[level - 1].append(abs(i - j))
    assert [sorted(d.tolist()) for d in found.distances] == [sorted(d) for d in expected]
    assert torch.allclose(found.mean, torch.tensor([sum(d) / len(d) for d in expected]))


def test_a_layer_that_keeps_nothing_has_no_mean():
    found = receptive_field(random_attribution(0), tau=[1.0, 0.4, 0.4, 0.0])
    assert len(found.distances[0]) == 0
    assert found.mean[0].isnan()


def test_other_numbers_of_layers_or_none_are_refused():
    with pytest.raises(ValueError, match="got 0 with"):
        receptive_field([])
    with pytest.raises(ValueError, match=r"got 2 with \[3, 4\] layers"):
        receptive_field([random_attribution(0), random_attribution(0, layers=3)])
