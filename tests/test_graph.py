"""Graphs follow Algorithm 1 and the authors' tree rule by rule; the optimum they trade away is known and compared."""

import ast
import dataclasses
import functools
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import networkx as nx
import numpy as np
import pytest
import torch
from networkx.readwrite import json_graph

import attattr
from attattr.graph import attribution_graph, attribution_tree, layer_scores, retained


def made(scores, tokens=None):
    """An attribution with these scores, L H N N or L N N."""
    scores = torch.as_tensor(np.asarray(scores), dtype=torch.float32)
    scores = scores[:, None] if scores.ndim == 3 else scores
    layers, _, n, _ = scores.shape
    tokens = tokens or ("[CLS]", *(f"w{i}" for i in range(1, n - 1)), "[SEP]")[:n]
    zeros = torch.zeros(layers)
    return attattr.Attribution(
        scores=scores, attention=torch.full_like(scores, 1 / n), tokens=tuple(tokens), text="made", target=0, label="yes",
        probabilities=torch.tensor([1.0, 0.0]), difference=zeros, completeness=zeros, error=zeros, evaluations=zeros.int(),
        method="riemann", tolerance=0.01,
    )  # fmt: skip


def random_attribution(seed, layers=4, heads=2, n=6):
    generator = np.random.default_rng(seed)
    return made(generator.normal(size=(layers, heads, n, n)) ** 3)


def attention_edges(graph):
    return {(a, b) for a, b, kind in graph.edges(data="kind") if kind == "attention"}


def algorithm_1(att, tau):
    """The listing of the paper once more, line by line, over plain lists: no code is shared with the package."""
    top, n = att.scores.shape[0], len(att.tokens)
    pairs, edges = [], []
    for layer in range(top, 0, -1):
        a = [[sum(att.scores[layer - 1, h, i, j].item() for h in range(att.scores.shape[1])) for j in range(n)] for i in range(n)]
        most = max(map(max, a))
        threshold = 0 if layer == top else tau
        kept = [(a[i][j], i, j) for i in range(n) for j in range(n) if most > 0 and a[i][j] / most > threshold]
        for _, i, j in sorted(kept, reverse=True):
            if (i, j) in pairs or (j, i) in pairs:
                continue
            pairs.append((i, j))
            edges.append(((layer, i), (layer - 1, j)))
    return set(edges)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tau", [0.0, 0.2, 0.4, 0.9])
def test_the_attention_edges_are_those_of_algorithm_1(seed, tau):
    att = random_attribution(seed)
    found = attention_edges(attribution_graph(att, tau))
    expected = algorithm_1(att, tau)
    dropped = expected - found  # those that hung from a [SEP] leaf
    assert found <= expected
    assert all(att.tokens[j] == "[SEP]" for _, (_, j) in dropped)


def test_a_small_graph_by_hand():
    a = np.zeros((2, 4, 4))
    a[1, 0, 1], a[1, 0, 2], a[1, 0, 3] = 1.0, 0.3, 0.2  # in the last layer everything positive is kept, whatever tau is
    a[1, 2, 0] = 0.1  # the reverse of a stronger one in the same layer
    a[0, 1, 2], a[0, 2, 1] = 1.0, 0.9  # the reverse again
    a[0, 1, 0] = 0.8  # joined above, the other way round
    a[0, 2, 3], a[0, 1, 3] = 0.5, 0.3  # above tau, and below
    graph = attribution_graph(made(a), tau=0.4)
    assert attention_edges(graph) == {((2, 0), (1, 1)), ((2, 0), (1, 2)), ((1, 1), (0, 2))}
    residual = {(x, y) for x, y, kind in graph.edges(data="kind") if kind == "residual"}
    assert residual == {((2, 0), (1, 0)), ((1, 0), (0, 0)), ((1, 1), (0, 1)), ((1, 2), (0, 2))}
    assert "[SEP]" not in nx.get_node_attributes(graph, "token").values()  # a leaf, wherever it stood
    assert graph.edges[(2, 0), (1, 1)]["score"] == pytest.approx(1.0)
    assert graph.nodes[1, 2]["token"] == "w2"


def test_a_separator_with_something_below_it_stays():
    a = np.zeros((2, 3, 3))
    a[1, 0, 2], a[0, 2, 1] = 1.0, 1.0
    graph = attribution_graph(made(a))
    assert attention_edges(graph) == {((2, 0), (1, 2)), ((1, 2), (0, 1))}
    assert (0, 2) not in graph  # below, it is a leaf


@pytest.mark.parametrize("seed", range(5))
def test_every_node_has_its_own_token_below_and_edges_go_down_one_level(seed):
    att = random_attribution(seed)
    graph = attribution_graph(att)
    top = len(att.scores)
    assert nx.is_directed_acyclic_graph(graph)
    for (level, i), (below, j), data in graph.edges(data=True):
        assert below == level - 1
        assert data["layer"] == level - 1
        assert data["kind"] == "attention" or (i == j and data["score"] == 0)
    for level, i in graph:
        assert level == 0 or graph.has_edge((level, i), (level - 1, i)) or att.tokens[i] == "[SEP]"
    assert (top, 0) in graph


def test_edges_name_the_head_that_gives_most():
    scores = np.zeros((2, 3, 3, 3))
    scores[1, :, 0, 1] = [0.2, 0.5, -0.1]
    edge = attribution_graph(made(scores)).edges[(2, 0), (1, 1)]
    assert (edge["head"], edge["head_score"], edge["score"]) == (1, pytest.approx(0.5), pytest.approx(0.6))


def authors_tree(a, tau):
    """The rule of reference facts §1.4 over plain numbers, as a set of edges; token states as in the released script."""
    layers, n = len(a), len(a[0])
    proportion = [[[x / abs(max(y for row in layer[1:] for y in row)) for x in row] for row in layer] for layer in a]
    flow = [[sum(layer[i][j] for layer in a) for j in range(n)] for i in range(n)]
    weight = [0.0] + [sum(max(flow[i][j], 0) for j in range(n) if j != i) for i in range(1, n)]
    root = weight.index(max(weight))
    appeared, edges = [i == root for i in range(n)], set()
    for j in range(n):
        if j != root and proportion[layers - 2][root][j] > tau:
            edges.add((root, j))
            appeared[j] = True
    for layer in range(layers - 3, -1, -1):
        for i in range(1, n):
            for j in range(n):
                if proportion[layer][i][j] > tau and appeared[i] and not appeared[j]:
                    edges.add((i, j))
                    appeared[j] = True
    return edges


@pytest.mark.parametrize("seed", range(30))
def test_the_tree_has_the_edges_of_the_authors_rule(seed):
    att = random_attribution(seed, layers=5, n=7)
    tree = attribution_tree(att)
    assert set(tree.edges) == authors_tree(layer_scores(att).tolist(), 0.4)
    assert nx.is_arborescence(tree)
    for parent, child, data in tree.edges(data=True):
        assert tree.nodes[child]["height"] == data["layer"]
        assert tree.nodes[parent]["height"] >= tree.nodes[child]["height"]  # the released script breaks this


def test_a_child_may_be_a_parent_in_the_same_layer():
    a = np.full((4, 5, 5), 0.01)
    a[2, 1, 2] = 1.0  # the layer before the last: the root's child
    a[:, 1, 4] = 0.3  # makes token 1 the root
    a[1, 2, 3], a[1, 3, 4] = 1.0, 0.9  # one layer, in reading order
    tree = attribution_tree(made(a))
    assert set(tree.edges) >= {(1, 2), (2, 3), (3, 4)}
    assert tree.nodes[3]["height"] == tree.nodes[4]["height"] == 1


@pytest.mark.parametrize("build", [attribution_graph, attribution_tree])
def test_graphs_travel_as_graphml_and_json(tmp_path, build):
    graph = build(random_attribution(3))
    nx.write_graphml(graph, tmp_path / "graph.graphml")
    back = nx.read_graphml(tmp_path / "graph.graphml")
    assert len(back.edges) == len(graph.edges)
    assert dict(back.nodes(data="token")) == {str(node): token for node, token in graph.nodes(data="token")}
    text = json.dumps(json_graph.node_link_data(graph))
    again = json_graph.node_link_graph(json.loads(text))
    assert nx.utils.graphs_equal(again, graph)


@pytest.mark.parametrize("tau", [-0.1, 1.5, float("nan"), [0.1, 0.2], [0.1, 0.2, 0.3, 2.0]])
def test_thresholds_outside_0_to_1_are_refused(tau):
    with pytest.raises(ValueError, match="tau"):
        attribution_graph(random_attribution(0), tau)


def test_each_layer_may_have_its_own_threshold():
    att = random_attribution(0)
    scores = layer_scores(att)
    kept = retained(att, [1.0, 0.0, 0.5, 0.9])
    assert not kept[0].any()
    assert (kept[1] == (scores[1] > 0)).all()
    assert kept[2].sum() >= kept[3].sum() > 0
    assert (kept[2] == (scores[2] > 0.5 * scores[2].max())).all()


def test_without_edges_the_terminal_is_left():
    graph = attribution_graph(random_attribution(0), [1.0] * 4)
    assert not attention_edges(graph)
    assert set(graph) == {(level, 0) for level in range(5)}
    negative = made(-np.ones((3, 4, 4)))
    assert not attention_edges(attribution_graph(negative, tau=0.0))
    with pytest.raises(ValueError, match="no tree to build"):
        attribution_tree(negative)


def test_one_token_is_a_graph_of_itself():
    graph = attribution_graph(made(np.ones((2, 1, 1)), tokens=("[CLS]",)))
    assert set(graph) == {(2, 0), (1, 0), (0, 0)}
    with pytest.raises(ValueError, match="no tree to build"):
        attribution_tree(made(np.ones((2, 1, 1)), tokens=("[CLS]",)))


def test_bad_attributions_are_refused():
    att = random_attribution(0)
    with pytest.raises(
        ValueError, match=r"terminal=None: expected the place of one of 6 tokens, or None if one is \[CLS\]; these are \['a', 'b'"
    ):
        attribution_graph(dataclasses.replace(att, tokens=("a", "b", "c", "d", "e", "f")))
    graph = attribution_graph(dataclasses.replace(att, tokens=("a", "b", "c", "d", "e", "f")), terminal=5)
    assert (4, 5) in graph
    with pytest.raises(ValueError, match="terminal=6: expected the place of one of 6 tokens"):
        attribution_graph(att, terminal=6)
    with pytest.raises(ValueError, match=r"scores\[0, 0, 0, 0\] is nan: expected numbers that are finite"):
        attribution_graph(dataclasses.replace(att, scores=att.scores * float("nan")))
    with pytest.raises(ValueError, match="at least two layers"):
        attribution_tree(made(att.scores[:1]))


def brute_force(scores, kept, cost, connected):
    """The best sum over every set of edges there is."""
    edges = [tuple(int(x) for x in edge) for edge in np.argwhere(kept)]
    best = 0.0
    for count in range(len(edges) + 1):
        for chosen in itertools.combinations(edges, count):
            reached = {0}
            for layer in range(len(scores) - 1, -1, -1):
                of_layer = [(i, j) for at, i, j in chosen if at == layer]
                if connected and not {i for i, _ in of_layer} <= reached:
                    break
                reached |= {j for _, j in of_layer}
            else:
                best = max(best, sum(scores[edge] - cost for edge in chosen))
    return best


@pytest.fixture(scope="module")
def chapter():
    """What chapter 4 defines in its cells on the best graph."""
    notebook = Path(__file__).parent.parent / "book" / "04-attribution-graphs-and-trees.ipynb"
    cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]}
    names = {"np": np, "cache": functools.cache, "chain": itertools.chain, "combinations": itertools.combinations}
    names |= {"attribution_graph": attribution_graph, "layer_scores": layer_scores, "retained": retained}
    for cell in ("by-hand-check", "best", "best-connected"):
        source = ast.parse(cells[cell])
        source.body = [statement for statement in source.body if isinstance(statement, ast.FunctionDef)]
        exec(compile(source, cell, "exec"), names)
    return SimpleNamespace(**names)


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("cost", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_the_best_gain_is_that_of_brute_force(chapter, seed, cost, connected):
    att = random_attribution(seed, layers=3, heads=1, n=3)
    kept = retained(att, 0.1)
    expected = brute_force(layer_scores(att), kept, cost, connected)
    assert kept.sum() <= 15
    found = chapter.best_connected if connected else chapter.best_gain
    assert found(att, cost, 0.1) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(10))
def test_rules_cost_and_connection_costs(chapter, seed):
    att = random_attribution(seed)
    assert chapter.graph_gain(att, 0.5) <= chapter.best_gain(att, 0.5) + 1e-9
    assert chapter.best_connected(att, 0.5) <= chapter.best_gain(att, 0.5) + 1e-9


def test_an_edge_may_be_taken_at_a_loss_for_what_it_reaches(chapter):
    a = np.zeros((2, 3, 3))
    a[1, 0, 1], a[0, 1, 2] = 0.2, 1.0
    assert chapter.best_gain(made(a), 0.5) == pytest.approx(0.5)
    assert chapter.best_connected(made(a), 0.5) == pytest.approx(0.2)
    assert chapter.best_connected(made(a), 0.7) == 0  # not worth it
