"""Chapter 13: the circuit that is written down is found by intervention, and the committed results are of the command."""

import pandas
import pytest
import torch

import attattr
from attattr.book.reproduce import beyond

TABLE = attattr.result("beyond")
METHODS = {"attribution of a difference", "attribution of the logit", "attention × gradient", "attention", "ablation", "rollout", "flow"}


@pytest.fixture(scope="module")
def given():
    return beyond.texts(24)


def test_what_can_be_known_is_known():
    walks, known, followed = beyond.sequences(50, torch.Generator().manual_seed(0))
    assert walks.shape == (50, beyond.LENGTH + 1)
    assert 0.1 < known.float().mean() < 0.9
    for row, place in known.nonzero().tolist():
        earlier = [at for at in range(place) if walks[row, at] == walks[row, place]]
        assert earlier == followed[row, place].nonzero()[:, 0].tolist()
        assert {int(walks[row, at + 1]) for at in earlier} == {int(walks[row, place + 1])}


def test_a_text_shows_its_answer_once_and_a_corrupted_one_does_not(given):
    for row, (tokens, before) in enumerate(zip(given.tokens.tolist(), given.before.tolist(), strict=True)):
        assert [at for at, token in enumerate(tokens[:-1]) if token == tokens[-1]] == [before]
        assert tokens[before + 1] == given.answers["next"][row]
        assert tokens[-1] not in given.corrupted["next"][row, :-1]
        assert (given.corrupted["next"][row] != given.tokens[row]).nonzero().tolist() == [[before]]
        assert given.corrupted["first"][row, 0] != tokens[0]


def test_the_circuit_by_hand_is_what_was_written_down(given):
    model = beyond.by_hand()
    assert beyond.share_right(model, given.tokens, given.answers["next"], "next") == 1
    effects = beyond.effects_of_heads(model, given, "next")
    for name in effects:  # nothing is redundant, so one head alone shows it, too
        assert effects[name][:, 0].min() > 0.7, name
        assert effects[name][:, 1].max() < 0.1, name
    for row in range(2):
        before = int(given.before[row])
        found = (beyond.effects_of_connections(model, given, row) > beyond.MATTERS).nonzero().tolist()
        assert sorted(map(tuple, found)) == [(way, *c) for way in (0, 1) for c in ((0, before + 1, before), (1, 23, before + 1))]


def test_attention_is_caught_by_the_traps_and_attribution_is_not(given):
    scores = beyond.scores_of(beyond.by_hand(), given, 0, "next")
    assert scores["attention"][:, 1].amax((1, 2)).min() > 0.99
    for name in ("attribution of a difference", "attribution of the logit"):
        assert scores[name][:, 0].amax((1, 2)).min() > 9
        assert scores[name][:, 1].abs().max() < 0.3
    assert scores["attention × gradient"][0, 0].max() < 0.2  # saturated
    assert scores["rollout"].sum((1, 2, 3)).max() < 1


def test_redundant_heads_are_found_by_sets_alone(given):
    model = beyond.by_hand()
    parts = model.layers[1].parts.weight.unflatten(0, (3, 2, beyond.LENGTH))
    out = model.layers[1].out.weight.unflatten(1, (2, beyond.LENGTH))
    parts[:, 1], out[:, 1] = parts[:, 0].clone(), out[:, 0].clone()  # a second induction head
    effects = beyond.effects_of_heads(model, given, "next")
    assert effects["ablating alone"][1].max() < 0.1
    assert effects["ablating"][1].min() > 0.7


def test_the_command_on_a_tiny_setting_and_again_after_a_kill(tmp_path, monkeypatch):
    options = ["--seeds", "1", "--steps", "3", "--epochs", "1", "--texts", "8", "--few", "1", "--output", str(tmp_path)]
    beyond.main(options)
    first = attattr.result(str(tmp_path / "beyond.json"))
    assert first.attrs["command"].endswith("--seeds 1 --steps 3 --epochs 1 --texts 8 --few 1")
    assert set(first.model) == {"digits", "by hand", "trained"}
    assert (first[first.model == "trained"].measure == "accuracy").all()  # in three steps nothing is learned, so nothing is claimed
    for name in ("train", "train_digits"):
        monkeypatch.setattr(beyond, name, lambda *_, **__: pytest.fail("trained again"))
    beyond.main(options)
    pandas.testing.assert_frame_equal(first, attattr.result(str(tmp_path / "beyond.json")))


def test_the_committed_results_are_whole():
    trained = TABLE[TABLE.model == "trained"]
    seeds = sorted(trained.seed.astype(int).unique())
    assert seeds == list(range(len(seeds)))
    assert f"--seeds {len(seeds)} " in TABLE.attrs["command"]
    assert {"command", "versions", "seconds"} <= set(TABLE.attrs)
    assert set(TABLE.method.dropna()) == METHODS
    shares = TABLE[~TABLE.measure.isin(["score", "true connections"])].value.astype(float)
    assert shares.between(-1, 1).all()
    accuracy = trained[trained.measure == "accuracy"].set_index(["job", "seed"]).value.astype(float)
    assert (accuracy > 0.8).all()
    assert float(TABLE[TABLE.model == "digits"].value.iloc[0]) > 0.95


def test_the_shipped_models_do_what_the_results_say():
    given = beyond.texts(64)
    accuracy = TABLE[(TABLE.model == "trained") & (TABLE.seed == 0) & (TABLE.measure == "accuracy")].set_index("job").value
    for job, answers in given.answers.items():
        assert beyond.share_right(beyond.trained("induction-0"), given.tokens, answers, job) == pytest.approx(accuracy[job], abs=0.02)
    images, labels = beyond.digits(test=True)
    right = beyond.trained("digits")(pixel_values=images).logits.argmax(-1) == labels
    assert float(right.float().mean()) == pytest.approx(TABLE[TABLE.model == "digits"].value.iloc[0], abs=0.01)
