from dataclasses import replace

import numpy as np
import pytest
import torch

import attattr
from attattr.figures import agreement_figure, cutting_figure, gates_figure, head_figure, maps_figure, sheets_figure, token_paths_figure
from attattr.figures.heads import head_name, percent, strongest_head

LAYERS, HEADS, TOKENS, SIZE = 2, 3, 4, 5


@pytest.fixture(scope="module")
def att():
    """A made-up attribution whose largest score is that of the connection (1, 2, 3, 0)."""
    generator = torch.Generator().manual_seed(0)
    attention = torch.rand(LAYERS, HEADS, TOKENS, TOKENS, generator=generator).softmax(-1)
    scores = attention * 0.01
    scores[1, 2, 3, 0] = 0.5
    scores[0, 0, 0, 0] = -0.25
    per_layer = torch.zeros(LAYERS)
    return attattr.Attribution(
        scores=scores, attention=attention, tokens=("[CLS]", "film", "film", "[SEP]"), text="film film", target=1, label="positive",
        probabilities=torch.tensor([0.1, 0.9]), difference=per_layer, completeness=per_layer, error=per_layer,
        evaluations=torch.ones(LAYERS, dtype=torch.long), method="riemann", tolerance=0.01,
    )  # fmt: skip


@pytest.fixture(scope="module")
def parts():
    attention = torch.rand(LAYERS, HEADS, TOKENS, TOKENS).softmax(-1)
    value = torch.randn(LAYERS, HEADS, TOKENS, SIZE)
    return attention, value, torch.einsum("lhij,lhjd->lihd", attention, value)


def figures(att, parts):
    return {
        "token_paths": token_paths_figure(parts[0], att.tokens),
        "head": head_figure(*parts, att.tokens),
        "gates": gates_figure(torch.randn(2, LAYERS, HEADS), [1.0, 0.0]),
        "maps": maps_figure(att),
        "sheets": sheets_figure(att),
        "agreement": agreement_figure(torch.rand(3, LAYERS, HEADS)),
        "cutting": cutting_figure([0.1, 0.2], {"attribution": torch.rand(3, 2), "random": torch.rand(3, 2)}),
    }


def test_every_figure_has_words_for_those_who_cannot_see_it_and_no_title(att, parts):
    for name, figure in figures(att, parts).items():
        assert len(figure.layout.meta["alt"]) > 60, name
        assert figure.layout.title.text is None, name


def test_slider_steps_are_frames_and_the_figure_shows_the_active_one(att, parts):
    for name in ("token_paths", "head", "gates", "maps"):
        figure = figures(att, parts)[name]
        slider = figure.layout.sliders[0]
        labels = [step.label for step in slider.steps]
        assert labels == [frame.name for frame in figure.frames], name
        frame = figure.frames[slider.active]
        for place, trace in zip(frame.traces or range(len(frame.data)), frame.data, strict=True):
            for part in ("x", "y", "z"):
                shown, framed = getattr(figure.data[place], part, None), getattr(trace, part, None)
                assert shown is framed or np.array_equal(np.asarray(shown, object), np.asarray(framed, object)), (name, part)


def test_maps_figure_opens_on_the_strongest_head(att):
    figure = maps_figure(att)
    assert strongest_head(att.scores) == (1, 2)
    assert figure.layout.sliders[0].steps[figure.layout.sliders[0].active].label == head_name(1, 2)
    assert np.asarray(figure.data[1].z)[3, 0] == 100


def test_maps_keep_equal_tokens_apart(att):
    assert len(set(maps_figure(att).data[0].x)) == TOKENS


def test_sheets_hold_every_head_in_its_tile(att):
    sheet = np.asarray(sheets_figure(att).data[0].z)
    assert sheet.shape == (HEADS * TOKENS, LAYERS * TOKENS) and sheet.dtype == np.int8
    assert np.array_equal(sheet[2 * TOKENS : 3 * TOKENS, TOKENS:], percent(att.attention[1, 2]))


def test_token_paths_draw_the_line_from_query_above_to_key_below():
    attention = torch.zeros(2, 1, 3, 3)
    attention[1, 0, 2, 0] = 0.9
    lines = token_paths_figure(attention, "abc").frames[1].data[0]
    assert list(lines.x) == [2, 0, None] and list(lines.y) == [2, 1, None]


def test_a_model_without_any_attribution_can_be_drawn(att):
    nothing = replace(att, scores=torch.zeros_like(att.scores))
    assert not np.asarray(maps_figure(nothing).data[1].z).any()
    assert not np.asarray(sheets_figure(nothing).data[2].z).any()


def test_gates_figure_opens_on_the_last_gate_and_names_the_control():
    change = torch.stack([torch.zeros(LAYERS, HEADS), torch.ones(LAYERS, HEADS)])
    figure = gates_figure(change, [1.0, 0.0])
    assert [step.label for step in figure.layout.sliders[0].steps] == ["1 (control)", "0"]
    assert np.asarray(figure.data[0].z).min() == 1
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax
