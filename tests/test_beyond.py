"""Chapter 13: the circuit that is written down is found by intervention, and the committed results are of the command."""

import pytest
import torch

import attattr
from attattr.book.exercises import over_connections
from attattr.book.reproduce import beyond
from attattr.book.training import small

TABLE = attattr.result("beyond")
METHODS = {"attribution of a difference", "attribution of the logit", "attention × gradient", "ablation"}
METHODS |= {"attention", "attention ÷ even", "rollout", "bottleneck (flow)"}


@pytest.fixture(scope="module")
def given():
    return small.texts(24)


def test_what_can_be_known_is_known():
    walks, known, followed = small.sequences(50, torch.Generator().manual_seed(0))
    assert walks.shape == (50, small.LENGTH + 1)
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
    model = small.by_hand()
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
    scores = beyond.scores_of(small.by_hand(), given, 0, "next")
    assert scores["attention"][:, 1].amax((1, 2)).min() > 0.99
    for name in ("attribution of a difference", "attribution of the logit"):
        assert scores[name][:, 0].amax((1, 2)).min() > 9
        assert scores[name][:, 1].abs().max() < 0.3
    assert scores["attention × gradient"][0, 0].max() < 0.2  # saturated
    assert scores["rollout"].sum((1, 2, 3)).max() < 1


def test_redundant_heads_are_found_by_sets_alone(given):
    model = small.by_hand()
    parts = model.layers[1].parts.weight.unflatten(0, (3, 2, small.LENGTH))
    out = model.layers[1].out.weight.unflatten(1, (2, small.LENGTH))
    parts[:, 1], out[:, 1] = parts[:, 0].clone(), out[:, 0].clone()  # a second induction head
    effects = beyond.effects_of_heads(model, given, "next")
    assert effects["ablating alone"][1].max() < 0.1
    assert effects["ablating"][1].min() > 0.7


def test_rows_whose_mask_leaves_them_few_letters_do_not_win_by_construction(given):
    scores = beyond.scores_of(small.Decoder().eval(), given, 0, "next")  # random: it attends nearly evenly
    for name in ("attention", "attention ÷ even", "rollout", "bottleneck (flow)"):
        assert scores[name][..., : beyond.FEWEST - 1, :].abs().max() == 0, name
        assert scores[name][0, :, beyond.FEWEST - 1].max() > 0, name
    assert scores["attention ÷ even"][0, 0, -1].mean() == pytest.approx(0.5)  # half is the residual connection's
    assert int(given.before.min()) + 1 >= beyond.FEWEST - 1  # so no true connection is left out


def test_rollout_and_bottleneck_of_a_connection_are_what_the_definitions_say(given):
    scores = beyond.scores_of(small.by_hand(), given, 0, "next")
    attention = scores["attention"].mean(1)
    mixed = (attention + torch.eye(small.LENGTH)) / 2
    rollout = over_connections(mixed)
    rollout[0] -= mixed[1, -1].diag() / 2  # the residual connection's part
    rollout[1, -1, -1] -= 0.5
    torch.testing.assert_close(scores["rollout"][:, 0], rollout)
    i, j = small.LENGTH - 1, int(given.before[0])
    for reader, read in ((j + 1, j), (i, i - 1), (i, 0)):  # from the last token up to the reader, and from there over the connection
        smaller = min(float(mixed[1, i, reader]), float(attention[0, reader, read]) / 2)
        assert float(scores["bottleneck (flow)"][0, 0, reader, read]) == pytest.approx(smaller)
        assert float(scores["bottleneck (flow)"][1, 0, i, read]) == pytest.approx(float(attention[1, i, read]) / 2)


def test_the_command_on_a_tiny_setting_and_on_after_a_kill(tmp_path, monkeypatch):
    options = ["--seeds", "2", "--steps", "3", "--epochs", "1", "--texts", "8", "--few", "1", "--output", str(tmp_path)]
    seeds, train = [], small.train

    def until_killed(seed, steps):
        seeds.append(seed)
        if seeds == [0, 1]:
            raise KeyboardInterrupt
        return train(seed, steps)

    monkeypatch.setattr(beyond, "train", until_killed)
    with pytest.raises(KeyboardInterrupt):
        beyond.main(options)
    assert not (tmp_path / "beyond.json").is_file()
    beyond.main(options)
    assert seeds == [0, 1, 1]
    found = attattr.result(str(tmp_path / "beyond.json"))
    assert found.attrs["command"].endswith("--seeds 2 --steps 3 --epochs 1 --texts 8 --few 1")
    assert list(found.seed.unique()) == [0, 1]
    assert (found.measure == "accuracy").all()  # in three steps nothing is learned, so nothing is claimed
    assert {path.name for path in tmp_path.rglob("*.safetensors")} == {
        "digits.safetensors",
        "induction-0.safetensors",
        "induction-1.safetensors",
    }
    assert not list(tmp_path.glob(".*"))  # nothing is left of what was kept for going on


def test_the_committed_results_are_whole():
    seeds = sorted(TABLE.seed.unique())
    assert seeds == list(range(len(seeds)))
    assert f"--seeds {len(seeds)} " in TABLE.attrs["command"]
    assert {"command", "versions", "seconds"} <= set(TABLE.attrs)
    assert "dirty" not in TABLE.attrs["versions"]["commit"]
    assert TABLE.attrs["seconds"] > 10 * len(seeds)  # all were trained by the command: a seed takes about a minute
    assert set(TABLE.method.dropna()) == METHODS
    shares = TABLE[~TABLE.measure.isin(["score", "true connections"])].value.astype(float)
    assert shares.between(-1, 1).all()
    accuracy = TABLE[TABLE.measure == "accuracy"].set_index(["job", "seed"]).value.astype(float)
    assert (accuracy > 0.8).all()


def test_the_shipped_models_do_what_the_results_say():
    given = small.texts(64)
    accuracy = TABLE[(TABLE.seed == 0) & (TABLE.measure == "accuracy")].set_index("job").value
    for job, answers in given.answers.items():
        assert beyond.share_right(small.trained("induction-0"), given.tokens, answers, job) == pytest.approx(accuracy[job], abs=0.02)
    images, labels = small.digits(test=True)
    right = small.trained("digits")(pixel_values=images).logits.argmax(-1) == labels
    assert float(right.float().mean()) > 0.95
