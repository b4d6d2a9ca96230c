"""The checks of chapter 9's exercises: right answers pass, stubs do not stop the notebook, the likely mistakes are caught."""

from __future__ import annotations

import pytest

import attattr
from attattr import Trigger
from attattr.exercises import check_flattery, check_flip_rate, check_put_in
from attattr.triggers import compared, insert


def put_in(words, new, positions):
    """By the package itself, which puts tokens into encoded texts."""
    _, tokenizer = attattr.load("sst2")
    trigger = Trigger(tuple(new), tuple(positions), (0,) * len(new), 0.0, "negative")
    columns = insert(tokenizer, " ".join(words), trigger, 512).columns
    return tokenizer.convert_ids_to_tokens(columns["input_ids"])[1:-1]


def rounded_down(words, new, positions):
    size, words = len(words) + len(new), list(words)
    for word, position in zip(new, positions, strict=True):
        words.insert(max(1, int(size * position)) - 1, word)
    return words


def in_the_old_length(words, new, positions):
    found = list(words)
    for word, position in zip(new, positions, strict=True):
        found.insert(max(1, round(len(words) * position)) - 1, word)
    return found


def no_next_place(words, new, positions):
    size, words = len(words) + len(new), list(words)
    for word, position in zip(new, positions, strict=True):
        words.insert(max(1, round(size * position)) - 1, word)
    return words


def before_the_sentence(words, new, positions):
    """Place 0 stands outside, as in the released code."""
    size, words, last = len(words) + len(new), list(words), -1
    for word, position in zip(new, positions, strict=True):
        last = max(last + 1, round(size * position))
        words.insert(last - 1, word)  # -1 counts from the end
    return words


def into_the_same_list(words, new, positions):
    words += new
    return words


def flip_rate(gold, before, after):
    """By the package, weighted by the rows first right of each class."""
    names = ["a", "b", "c"]
    hit = compared(names, gold, before, after)
    right = {name: hit.before[name] * hit.rows[name] for name in hit.flip_rate}
    return sum(hit.flip_rate[name] * count for name, count in right.items()) / sum(right.values())


def test_right_answers_are_told_so(capsys):
    check_put_in(put_in)
    check_flip_rate(flip_rate)
    check_flattery(lambda selection, reported: dict(zip(selection.tolist(), reported, strict=True))[float(selection.min())] - min(reported))
    assert capsys.readouterr().out.splitlines() == [f"Exercise 9.{i}: right" for i in (1, 2, 3)]


def test_stubs_do_not_stop_the_notebook(capsys):
    check_put_in(lambda words, new, positions: ...)
    check_flip_rate(lambda gold, before, after: ...)
    check_flattery(lambda selection, reported: ...)
    assert capsys.readouterr().out.count("not filled in yet") == 3


def next_of_an_equal_place_only(words, new, positions):
    size, words, last = len(words) + len(new), list(words), None
    for word, position in zip(new, positions, strict=True):
        place = max(1, round(size * position))
        last = place + 1 if place == last else place
        words.insert(min(last, len(words) + 1) - 1, word)
    return words


@pytest.mark.parametrize(
    "wrong", [next_of_an_equal_place_only, rounded_down, in_the_old_length, no_next_place, before_the_sentence, lambda w, n, p: [*w, *n]]
)
def test_words_at_other_places_are_refused(wrong):
    with pytest.raises(AssertionError, match=r"9\.1: expected \[.*\] for \(.*\) at \(.*\), got"):
        check_put_in(wrong)


def test_a_list_that_was_changed_is_named():
    with pytest.raises(AssertionError, match=r"9\.1: expected words left as they are, got a changed list"):
        check_put_in(into_the_same_list)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda gold, before, after: (after != gold).float().mean(),  # one minus the accuracy
        lambda gold, before, after: (after != before).float().mean(),  # all decisions that change
        lambda gold, before, after: (after[before == gold] == gold[before == gold]).float().mean(),  # those that stay
        lambda gold, before, after: ((before == gold) & (after != gold)).float().mean(),  # of all rows
    ],
)
def test_other_shares_are_refused(wrong):
    with pytest.raises(AssertionError, match=r"9\.2: expected \d\.\d+ for labels .*, got"):
        check_flip_rate(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda selection, reported: reported.min(),
        lambda selection, reported: reported.min() - reported[selection.argmin()],  # the other way round
        lambda selection, reported: reported[selection.argmin()] - selection.min(),  # what another set of rows changes
        lambda selection, reported: reported[selection.argmax()] - reported.min(),
        lambda selection, reported: reported.mean() - reported.min(),
    ],
)
def test_other_differences_are_refused(wrong):
    with pytest.raises(AssertionError, match=r"9\.3: expected .* on the reported rows, got"):
        check_flattery(wrong)
