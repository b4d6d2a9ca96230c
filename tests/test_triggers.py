"""Triggers against a second reading of the rules, attacks against counts by hand; refusals."""

import dataclasses

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

import attattr
from attattr.triggers import Trigger, attack_of, attribute_attacked, candidates, insert, predict_attacked, shortlisted

PAIRS = [
    ("The bakery on our street opens at six.", "You can buy bread there before work."),
    ("Nobody in the choir could read music.", "All the singers read music well."),
    ("It rained.", "The ground was unfathomably dry."),
]


@pytest.fixture(scope="module")
def mnli():
    return attattr.load("mnli")


@pytest.fixture(scope="module")
def sst2():
    return attattr.load("sst2")


def sentences(texts, labels):
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    return Dataset.from_dict({"sentence": texts, "label": labels}, features=features)


def tokens_of(tokenizer, columns):
    return tokenizer.convert_ids_to_tokens(columns["input_ids"])


# Insertion


def places_in_the_released_code(length_a, length_b, pieces):
    """Where the authors' script puts tokens, as the facts (§1.8) describe it: places in the whole list, [CLS] at 0, by segment.

    But for place 0, which would be before [CLS], or in the other sentence.
    """
    found = {}
    counts = [sum(segment == s for _, segment in pieces) for s in (0, 1)]
    for segment, length, start in ((0, length_a, 0), (1, length_b, length_a + counts[0] + 1)):
        last = None
        for relative in sorted(position for position, own in pieces if own == segment):
            place = start + max(1, round((length + counts[segment]) * relative))
            place = place + 1 if place == last else place
            found[place] = (relative, segment)
            last = place
    return found


@pytest.mark.parametrize(
    "pieces",
    [
        [(0.5, 1), (1.0, 1)],
        [(0.1, 0), (0.6, 0), (0.2, 1), (0.9, 1)],
        [(0.5, 0), (0.51, 0)],  # two at one place: the second goes to the next
        [(1 / 3, 0), (2 / 3, 0), (1.0, 1)],
    ],
)
def test_tokens_go_where_the_released_code_puts_them(mnli, pieces):
    _, tokenizer = mnli
    words = ["math", "##ly", "iowa", "ice"][: len(pieces)]
    trigger = Trigger(tuple(words), tuple(p for p, _ in pieces), tuple(s for _, s in pieces), 1.0, "neutral")
    for text in PAIRS:
        lengths = [len(tokenizer.tokenize(part)) for part in text]
        columns, places, shortened = insert(tokenizer, text, trigger, 512)
        where = places_in_the_released_code(*lengths, pieces)
        shown = tokens_of(tokenizer, columns)
        for place, (relative, segment) in where.items():
            assert shown[place] == words[pieces.index((relative, segment))]
            assert columns["token_type_ids"][place] == segment
        assert not shortened
        assert set(places) == set(where)
        left = [token for place, token in enumerate(shown) if place not in where]
        assert left == tokens_of(tokenizer, tokenizer(*text))  # nothing else is moved or lost
        assert columns["attention_mask"] == [1] * len(shown)


def test_ends_and_collisions_stay_inside_the_segment(mnli):
    _, tokenizer = mnli
    trigger = Trigger(("with", "math", "ice", "never"), (1.0, 1.0, 1.0, 0.0), (0, 0, 0, 0), 1.0, "neutral")
    shown = tokens_of(tokenizer, insert(tokenizer, PAIRS[2], trigger, 512)[0])
    assert shown[:9] == ["[CLS]", "never", "it", "rained", ".", "with", "math", "ice", "[SEP]"]


def test_a_long_text_loses_its_own_end_and_never_the_trigger(mnli):
    _, tokenizer = mnli
    trigger = Trigger(("with", "math"), (1.0, 1.0), (1, 1), 1.0, "neutral")
    text = ("rain " * 30, "sun " * 8)
    columns, _, shortened = insert(tokenizer, text, trigger, 20)
    shown = tokens_of(tokenizer, columns)
    assert shortened
    assert len(shown) == 20
    assert shown[-3:] == ["with", "math", "[SEP]"]
    assert shown.count("rain") + shown.count("sun") == 15
    assert not insert(tokenizer, text, trigger, 43)[2]


def test_a_trigger_of_whole_words_is_what_writing_them_would_be(sst2):
    model, tokenizer = sst2
    trigger = Trigger(("never",), (0.5,), (0,), 1.0, "negative")
    att, places = attribute_attacked(model, tokenizer, "a warm and moving film .", trigger)
    written = attattr.attribute(model, tokenizer, "a warm and never moving film .")
    assert att.tokens == written.tokens
    assert places == (4,)
    assert att.text == "a warm and never moving film."  # as the tokenizer spells it
    assert torch.allclose(att.scores, written.scores, atol=1e-6)
    assert int(predict_attacked(model, tokenizer, ["a warm and moving film ."], trigger)[0]) == written.target


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tokens": ("zzqq",)}, "no ordinary token 'zzqq'"),
        ({"tokens": ("[SEP]",)}, r"no ordinary token '\[SEP\]'"),
        ({"segments": (1,)}, "a token in segment 1"),
        ({"segments": (-1,)}, "a token in segment -1"),
    ],
)
def test_triggers_that_no_row_can_hold_are_refused(sst2, change, match):
    trigger = dataclasses.replace(Trigger(("never",), (0.5,), (0,), 1.0, "negative"), **change)
    with pytest.raises(ValueError, match=match):
        attattr.attack(*sst2, sentences(["a warm film ."], [1]), trigger)


def test_a_trigger_longer_than_the_limit_is_refused(sst2):
    many = 520
    trigger = Trigger(("never",) * many, (0.5,) * many, (0,) * many, 1.0, "negative")
    with pytest.raises(ValueError, match="520 tokens leaves no room"):
        attattr.attack(*sst2, sentences(["a warm film ."], [1]), trigger)


@pytest.mark.parametrize(
    ("tokens", "positions", "segments", "match"),
    [
        ((), (), (), "at least one token"),
        (("a", "b"), (0.5,), (0, 0), r"\(0.5,\).*expected one position and one segment for each token"),
        (("a",), (1.5,), (0,), "expected numbers from 0 to 1"),
        (("a",), (float("nan"),), (0,), "expected numbers from 0 to 1"),
    ],
)
def test_a_trigger_is_whole(tokens, positions, segments, match):
    with pytest.raises(ValueError, match=match):
        Trigger(tokens, positions, segments, 1.0, "negative")


def test_an_attacked_pair_stays_a_pair(mnli):
    trigger = Trigger(("never",), (1.0,), (0,), 1.0, "contradiction")
    att, places = attribute_attacked(*mnli, PAIRS[2], trigger)
    assert [att.tokens[place] for place in places] == ["never"]
    assert att.text == ("it rained. never", "the ground was unfathomably dry.")


# Mining


def second_reading(tokenizer, att, score, barred=frozenset()):
    """The rule once more, with loops over one text's scores: the best head by its largest value, its two largest connections."""
    special = {"[CLS]", "[SEP]"}
    best = []
    for layer in att.scores:
        for head in layer:
            values = [
                (float(head[i, j]), i, j)
                for i, first in enumerate(att.tokens)
                for j, second in enumerate(att.tokens)
                if not {first, second} & barred and not {first, second} <= special
            ]
            best = max(best, sorted(values, reverse=True)[:2], key=lambda two: two[0][0] if two else -1)
    two = best if best[1][0] >= 0.2 * best[0][0] else best[:1]
    members = sorted({i for _, *pair in two for i in pair if att.tokens[i] not in special})
    middle = att.tokens.index("[SEP]")
    places = [(i, middle - 1, 0) if i < middle else (i - middle, len(att.tokens) - middle - 2, 1) for i in members]
    value = sum(v for v, *_ in two) if score == "top-two" else best[0][0]
    return tuple(att.tokens[i] for i in members), tuple(k / n for k, n, _ in places), tuple(s for *_, s in places), value


@pytest.mark.parametrize("score", ["maximum", "top-two"])
def test_candidates_are_the_strongest_connections(mnli, score):
    model, tokenizer = mnli
    found = candidates(model, tokenizer, PAIRS, score=score)
    for text, trigger in zip(PAIRS, found, strict=True):
        att = attattr.attribute(model, tokenizer, text, steps=3)
        tokens, positions, segments, value = second_reading(tokenizer, att, score)
        assert (trigger.tokens, trigger.segments, trigger.label) == (tokens, segments, att.label)
        assert trigger.positions == pytest.approx(positions)
        assert trigger.score == pytest.approx(value, rel=1e-3)
        assert 1 <= len(trigger.tokens) <= 4


def test_the_rival_takes_the_largest_attention(mnli):
    model, tokenizer = mnli
    (trigger,) = candidates(model, tokenizer, PAIRS[:1], values="attention")
    att = attattr.attribute(model, tokenizer, PAIRS[0], steps=3)
    tokens, *_ = second_reading(tokenizer, dataclasses.replace(att, scores=att.attention), "maximum")
    assert trigger.tokens == tokens


def test_the_batch_changes_nothing(mnli):
    model, tokenizer = mnli
    texts = [*PAIRS, *[(b, a) for a, b in PAIRS]]
    together = candidates(model, tokenizer, texts)
    alone = [candidates(model, tokenizer, [text])[0] for text in texts]
    assert [dataclasses.replace(one, score=0.0) for one in together] == [dataclasses.replace(one, score=0.0) for one in alone]
    assert [one.score for one in together] == pytest.approx([one.score for one in alone], rel=1e-3)


def test_an_excluded_word_takes_its_pieces_along(mnli):
    model, tokenizer = mnli
    pieces = tuple(tokenizer.tokenize("unfathomably"))
    assert len(pieces) > 1
    text = PAIRS[2]
    words = ["it", "rained", "the", "ground", "was", "dry"]
    (trigger,) = candidates(model, tokenizer, [text], exclude=words)
    assert set(trigger.tokens) <= {*pieces, "."}
    (trigger,) = candidates(model, tokenizer, [text], exclude={"positive": [*words, "."], "negative": ["Unfathomably"]})  # all of it
    assert trigger is None
    (trigger,) = candidates(model, tokenizer, [text], word_pieces=False)
    assert not set(trigger.tokens) & set(pieces)


def test_candidates_that_say_the_same_are_kept_once():
    one = Trigger(("ice",), (0.5,), (0,), 0.2, "neutral")
    same, other = dataclasses.replace(one, score=0.3, positions=(0.1,)), dataclasses.replace(one, tokens=("fire",), score=0.1)
    assert shortlisted([one, same, other], ["neutral"], 5) == [same, other]
    assert shortlisted([one, same, other], ["neutral"], 1) == [same]


def test_triggers_are_ranked_by_what_they_do_to_the_selection(sst2):
    pool = attattr.examples("sst2").select(range(8))
    selection = attattr.examples("sst2").select(range(20, 32))
    options = {"selection": selection, "shortlist": 3}
    found = attattr.mine_triggers(*sst2, pool, top=3, **options)
    for label, other in (("negative", "positive"), ("positive", "negative")):
        flips = [attattr.attack(*sst2, selection, trigger).flip_rate[other] for trigger in found if trigger.label == label]
        assert flips == sorted(flips, reverse=True)
        assert len(flips) > 1
    assert attattr.mine_triggers(*sst2, pool, top=3, **options) == found
    best = attattr.mine_triggers(*sst2, pool, top=1, **options)
    assert best == [next(t for t in found if t.label == label) for label in ("negative", "positive")]
    assert attattr.mine_triggers(*sst2, pool, top=1, classes=["positive"], **options) == best[1:]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"exclude": []}, "an empty lexicon"),
        ({"exclude": {"positive": [], "negative": []}}, "an empty lexicon"),
        ({"score": "sum"}, "unknown score 'sum'"),
        ({"values": "gradient"}, "unknown values 'gradient'"),
        ({"classes": ["neutral"]}, "unknown class 'neutral'"),
        ({"top": 0}, "top=0"),
        ({"top": 5, "shortlist": 2}, "shortlist of 2"),
    ],
)
def test_bad_options_are_refused(sst2, options, match):
    with pytest.raises(ValueError, match=match):
        attattr.mine_triggers(*sst2, sentences(["a warm film .", "a dull film ."], [1, 0]), **options)


def test_pools_and_selections_without_what_is_needed_are_refused(sst2):
    warm, dull = ["a warm , moving and very funny film .", "a lovely film ."], ["a dull , lifeless mess ."]
    with pytest.raises(ValueError, match="no row of the pool gives a trigger for the class 'negative'"):
        attattr.mine_triggers(*sst2, sentences(warm, [1, 1]), selection=sentences(warm + dull, [1, 1, 0]))
    with pytest.raises(ValueError, match="no row of the selection is of another class than 'positive'"):
        attattr.mine_triggers(*sst2, sentences(warm, [1, 1]), selection=sentences(warm, [1, 1]), classes=["positive"])
    with pytest.raises(ValueError, match="1 rows: expected at least 2"):
        attattr.mine_triggers(*sst2, sentences(dull, [0]))
    with pytest.raises(ValueError, match="no rows: expected at least one example"):
        attattr.mine_triggers(*sst2, sentences([], []))
    with pytest.raises(ValueError, match="no rows"):
        attattr.mine_triggers(*sst2, sentences(dull, [0]), selection=sentences([], []))
    with pytest.raises(TypeError, match="a collection of words"):
        attattr.mine_triggers(*sst2, sentences(warm + dull, [1, 1, 0]), exclude="dull")


# Attack


def test_the_counts_of_an_attack():
    gold, first, then = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 0, 0]), torch.tensor([0, 1, 1, 0, 0, 1])
    hit = attack_of(["no", "yes", "never"], gold, first, then, truncated=2)
    assert hit.before == {"no": 0.75, "yes": 0.0}
    assert hit.after == {"no": 0.5, "yes": 0.5}
    assert hit.flip_rate == {"no": pytest.approx(2 / 3)}  # of "yes" none was right at first
    assert hit.rows == {"no": 4, "yes": 2}
    low, high = hit.after_interval["no"]  # Wilson's: the roots of (p - 1/2)² = z² p (1 - p) / n
    z = 1.959963984540054
    for end in (low, high):
        assert (end - 0.5) ** 2 == pytest.approx(z**2 * end * (1 - end) / 4)
    assert low < 0.5 < high
    assert hit.truncated == 2


def test_attack_counts_what_the_model_says(sst2):
    model, tokenizer = sst2
    texts, labels = ["a warm and moving film .", "a dull mess .", "funny from end to end ."], [1, 0, 1]
    trigger = Trigger(("not", "worth"), (0.2, 0.4), (0, 0), 1.0, "negative")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hit = attattr.attack(model, tokenizer, sentences(texts, labels), trigger)
    right = []
    for text, label in zip(texts, labels, strict=True):
        columns = insert(tokenizer, text, trigger, 512)[0]
        logits = model(**{name: torch.tensor([column]) for name, column in columns.items()}).logits
        right.append(int(logits.argmax()) == label)
    assert hit.after == {"negative": float(right[1]), "positive": (right[0] + right[2]) / 2}
    assert hit.truncated == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_attack_counts_what_had_to_be_shortened(sst2):
    trigger = Trigger(("not", "worth"), (0.2, 0.4), (0, 0), 1.0, "negative")
    hit = attattr.attack(*sst2, sentences(["good " * 509, "bad ."], [1, 0]), trigger)
    assert hit.truncated == 1
    with pytest.raises(ValueError, match="no rows"):
        attattr.attack(*sst2, sentences([], []), trigger)
