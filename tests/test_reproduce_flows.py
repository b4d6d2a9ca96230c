"""Which explanation ranks words best: each number of the result computed again from the package, for an encoder and a decoder."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from toys import family

import attattr
from attattr.book import reproduce as reproduce_module
from attattr.book.reproduce import Run, flows, reproduce
from attattr.book.results import read_result
from attattr.flow import flow_saturation
from attattr.saliency import blank_out, input_gradient, masking_curves, ordinary_tokens

LINES = [
    "a warm and moving film .\tpositive",
    "a dull , empty mess from its first minute on .\tnegative",
    "never boring and very funny .\tpositive",
    "no .\tnegative",  # too short to rank
    "long " * 80 + ".\tnegative",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Result, model and kept texts: the task's model is a toy encoder, the other one a toy decoder."""
    folder = tmp_path_factory.mktemp("flows")
    (folder / "SST-2").mkdir()
    (folder / "SST-2" / "dev.tsv").write_text("sentence\tlabel\n" + "\n".join(LINES) + "\n")
    (folder / "decoder").mkdir()
    (folder / "decoder" / "training.json").write_text('{"task": "sst2", "sha256": "0"}')
    tokenizer = attattr.load("sst2")[1]
    encoder, decoder = flows.untrained("bert", 3, width=64), flows.untrained("gpt2", 3, width=64)
    for model in (encoder, decoder):  # of small random weights, all attention would be even
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.shape[0]))
    models = {"sst2": (encoder, tokenizer), str(folder / "decoder"): (decoder, tokenizer)}
    with pytest.MonkeyPatch.context() as patch:
        for module in (flows, reproduce_module):
            patch.setattr(module, "load", lambda name, device="cpu", size="small": models[str(name)])
        patch.setattr(flows, "DEPTHS", (4,))
        options = {"task": "sst2", "data": folder, "seed": 0, "output": folder / "results", "other": [folder / "decoder"]}
        found = read_result(reproduce("flow-correlations", Run(**options, rows=None)))
        full = read_result(reproduce("saturation", Run(**options, rows=2)))
    assert not list((folder / "results").glob(".*"))
    return found, full, models, folder


def entry(found, model="trained, sst2", measure="correlation", **wanted):
    """The one value that is asked for."""
    (value,) = select(found, model=model, measure=measure, **wanted).value
    return value


def select(table, **wanted):
    """The rows of a table that hold all this."""
    for name, value in wanted.items():
        table = table[table[name] == value]
    return table


def kept():
    return [line.split("\t")[0] for line in LINES[:3]]


def rho(model, tokenizer, own, other):
    """Mean of Spearman's correlation over the texts, of two functions of an attribution."""
    values = []
    for text in kept():
        att = attattr.attribute(model, tokenizer, text, tolerance=5e-2)
        words = ordinary_tokens(tokenizer, text)
        values.append(stats.spearmanr(own(att)[words], other(att)[words]).statistic)
    return pytest.approx(np.mean(values), abs=2e-3)


def test_texts_that_cannot_be_ranked_or_are_too_long_are_left_out(run):
    found, *_ = run
    models = found.attrs["models"]
    assert {name: (about["rows"], about["texts"]) for name, about in models.items()} == {"trained, sst2": (5, 3), "other 0": (5, 3)}
    assert models["trained, sst2"]["tokens"] == pytest.approx(np.mean([6, 11, 6]), abs=0.5)


def test_correlations_with_blank_out_and_gradients_by_layer_and_reading(run):
    found, _, models, _ = run
    model, tokenizer = models["sst2"]

    def lost(att):
        return blank_out(model, tokenizer, att.text, att.target)

    def rolled(att):
        return attattr.attention_rollout(att.attention)

    assert entry(found, method="rollout", layer=1, reading="row", against="blank-out") == rho(
        model, tokenizer, lambda att: rolled(att)[1, 0], lambda att: lost(att).abs()
    )
    assert entry(found, method="rollout", layer=2, reading="max", against="input gradient") == rho(
        model, tokenizer, lambda att: rolled(att)[2].amax(0), lambda att: input_gradient(model, tokenizer, att.text, att.target)
    )
    assert entry(found, method="flow", layer=2, reading="row", against="blank-out") == rho(
        model, tokenizer, lambda att: attattr.attention_flow(att.attention)[2, 0], lambda att: lost(att).abs()
    )
    assert entry(found, method="attribution, all rows", layer=0, reading="row", against="signed blank-out") == rho(
        model, tokenizer, lambda att: att.scores[0].sum((0, 1)), lost
    )
    assert entry(found, method="attribution, all rows", layer=0, reading="row", against="blank-out") == rho(
        model, tokenizer, lambda att: att.scores[0].sum((0, 1)).abs(), lambda att: lost(att).abs()
    )
    sure = found[(found.measure == "correlation") & (found.texts > 1)]
    assert ((sure.low <= sure.value) & (sure.value <= sure.high)).all()
    assert not len(select(found, method="blank-out", against="blank-out"))


def test_masking_is_by_the_last_layer_or_by_the_words_themselves(run):
    found, _, models, _ = run
    model, tokenizer = models["sst2"]
    own = select(found, model="trained, sst2", method="rollout", layer=2)
    curves = []
    for text in kept():
        att = attattr.attribute(model, tokenizer, text, tolerance=5e-2)
        curves.append(masking_curves(model, tokenizer, text, attattr.attention_rollout(att.attention)[-1, 0], att.target))
    for measure in ("comprehensiveness", "sufficiency"):
        assert entry(own, measure=measure) == pytest.approx(np.mean([getattr(one, measure) for one in curves]), abs=1e-3)
    for measure, name in (("deletion", "without"), ("insertion", "only")):
        expected = np.mean([getattr(one, name).numpy() for one in curves], 0)
        assert select(own, measure=measure).value.tolist() == pytest.approx(expected, abs=1e-3)
    masked = select(found, model="trained, sst2", measure="comprehensiveness").set_index("method")["layer"]
    assert masked["attribution, all rows"] == 0
    assert masked.index[-1] == "random"


def test_a_decoder_has_rollout_and_flow_by_receptive_field_too(run):
    found, _, models, _ = run
    assert found.attrs["models"]["other 0"]["training"]["sha256"] == "0"
    named = {f"{name}{of}, by receptive field" for name in ("rollout", "flow") for of in ("", " of attribution")}
    assert named <= set(select(found, model="other 0").method)
    assert not named & set(select(found, model="trained, sst2").method)
    model, tokenizer = next(pair for folder, pair in models.items() if folder != "sst2")
    assert entry(found, "other 0", method="rollout, by receptive field", layer=2, reading="row", against="blank-out") == rho(
        model,
        tokenizer,
        lambda att: attattr.attention_rollout(att.attention, causal=True)[2, -1],
        lambda att: blank_out(model, tokenizer, att.text, att.target).abs(),
    )


def test_saturation_of_trained_random_and_other_models(run):
    _, found, models, _ = run
    assert list(found.model.unique()) == ["trained, sst2", "random weights, 4 layers", "other 0"]
    assert found.attrs["models"]["other 0"]["training"]["sha256"] == "0"
    shown = [text for text in kept() if len(ordinary_tokens(models["sst2"][1], text)) >= 8]
    for name, (model, tokenizer) in {
        "trained, sst2": models["sst2"],
        "random weights, 4 layers": (flows.untrained("bert", 4), models["sst2"][1]),
    }.items():
        shares = []
        for text in shown:
            attention = attattr.attribute(model, tokenizer, text, steps=1).attention
            shares.append(flow_saturation(attattr.attention_flow(attention, normalize=False), attention))
        assert select(found, model=name, bound="word").share.tolist() == pytest.approx(torch.stack(shares[:2]).mean(0).tolist(), abs=1e-3)


def test_the_large_model_is_measured_itself_without_the_random_ones(tmp_path, monkeypatch):
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2" / "dev.tsv").write_text("sentence\tlabel\n" + "\n".join(LINES) + "\n")
    tokenizer = attattr.load("sst2")[1]
    sizes = {"small": flows.untrained("bert", 2, width=64), "base": flows.untrained("bert", 3, width=64)}
    monkeypatch.setattr(reproduce_module, "load", lambda name, device="cpu", size="small": (sizes[size], tokenizer))
    monkeypatch.setattr(reproduce_module, "adapter_folder", lambda name, size: None)
    run = Run(task="sst2", data=tmp_path, rows=4, size="base", output=tmp_path / "results")
    for name in ("flow-correlations", "saturation"):
        found = read_result(reproduce(name, run))
        assert set(found.model) == {"trained, sst2"}
        assert set(found.layer.dropna()) == {0, 1, 2}
        assert found.attrs["command"].endswith("--size base --rows 4 --seed 0")
        assert (tmp_path / "results" / "base" / f"{name}-sst2.json").is_file()


def test_rows_of_which_none_can_be_ranked_are_refused(tmp_path, monkeypatch):
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2" / "dev.tsv").write_text("sentence\tlabel\ngood .\tpositive\nbad .\tnegative\n")
    model = flows.untrained("bert", 2, width=64), attattr.load("sst2")[1]
    monkeypatch.setattr(reproduce_module, "load", lambda name, device="cpu", size="small": model)
    with pytest.raises(ValueError, match=r"none of 2 texts can be ranked by trained, sst2: expected 3 ordinary tokens"):
        reproduce("flow-correlations", Run(task="sst2", data=tmp_path, output=tmp_path / "results"))
    assert not list((tmp_path / "results").glob("*"))


def test_flows_at_the_source_bound_are_those_of_the_reader(run, monkeypatch):
    """The first token keeps to itself in the second layer and the last does not, so the rows have different shares."""
    encoder = torch.tensor(
        [[[[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.1, 0.3, 0.6]]], [[[0.98, 0.01, 0.01], [0.4, 0.2, 0.4], [0.5, 0.5, 0.0]]]]
    )
    decoder = torch.tensor([[[[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.1, 0.2, 0.7]]], [[[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.01, 0.29, 0.7]]]])
    # By hand, of the decoder's last token: to 0 run 0.05 + 0.145 + 0.005 = 0.2, the bound is 0.05 + 0.15; to 1, 0.1 + 0.145 of 0.25.
    for attention, row, expected in ((encoder, 0, [1, 1]), (encoder, 2, [1, 0.5]), (decoder, 2, [1, 0.5])):
        flow = attattr.attention_flow(attention.double(), normalize=False)
        assert flows.share_at_source_bound(flow, attention.double(), row).tolist() == expected
    _, _, models, folder = run
    tokenizer = models["sst2"][1]
    for attention, expected in ((encoder, [1, 1]), (decoder, [1, 0.5])):
        options = {"task": "sst2", "data": folder, "seed": 0, "output": folder / "again"}
        monkeypatch.setattr(flows, "load", lambda name, device: (models["sst2"][0], tokenizer))
        monkeypatch.setattr(flows, "untrained", lambda family, depth: models["sst2"][0])
        monkeypatch.setattr(flows, "DEPTHS", (4,))
        monkeypatch.setattr(flows, "record", lambda model, inputs, attention=attention: Recorded(attention.split(1)))
        again = read_result(reproduce("saturation", Run(**options, rows=2)))
        assert select(again, model="trained, sst2", bound="source").share.tolist() == expected


@dataclass
class Recorded:
    """All that is read of a recorded pass."""

    attention: tuple[torch.Tensor, ...]


def test_a_decoder_to_start_from_knows_the_words_of_the_base(tmp_path):
    flows.write_decoder(tmp_path)
    base, _ = attattr.load("sst2")  # an adapter leaves the word embeddings alone
    model = type(flows.untrained("gpt2", 1)).from_pretrained(tmp_path)
    assert torch.equal(model.get_input_embeddings().weight, base.get_input_embeddings().weight)
    assert model.config.n_layer == 4


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="unknown family 'bart': expected one of 'bert', 'gpt2'"):
        flows.untrained("bart", 2)
    assert type(flows.untrained("gpt2", 1, width=32)) is type(family("gpt2"))
