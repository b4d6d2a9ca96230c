"""The visible checks that readers run on their answers: one table, ``EXERCISES`` in exercises.py, and one function, ``check``.

    >>> check("7.3", lambda D, d: ...)
    Exercise 7.3: not filled in yet
    >>> check("7.3", lambda D, d: 4 * D * d + 3 * d)
    Exercise 7.3: right

**To add an exercise**, a teacher writes

* a row of ``EXERCISES``: the number, the names of the arguments, and the cases that an answer must get right. A case is a tuple
  of the arguments and, as its last entry, the value expected. Choose the cases so that each likely mistake shows in one of them.
  Numbers are right in the right shape and up to ``TOLERANCE``, whatever holds them: tensor, array or list, of any precision. An
  answer for which this is too strict names its own way to compare as ``agree``;
* ``check("number", answer)`` in the chapter, below the stub and below the solution;
* a row of the table in ``tests/test_checks.py``: the right answer, and the mistakes that must be refused.

An argument that is a function is shown by its docstring. No answer may change its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

from .answers import plain, shape, shown
from .exercises import EXERCISES


def check(number: str, answer: Callable) -> None:
    """Tell whether the reader's function is a right answer to an exercise.

    Prints that the answer is right, or that it is not filled in yet (it returns ``...``); the notebook then goes on.

    Args:
        number: of the exercise, such as ``"2.1"``.
        answer: the function itself. What it raises reaches the reader.

    Raises:
        AssertionError: a wrong answer, with the value expected, the value that came and the arguments; no value returned; an
            argument changed.
        KeyError: there is no such exercise.
        TypeError: the answer is not a function.
    """
    if number not in EXERCISES:
        raise KeyError(f"no exercise {number!r}: expected one of {', '.join(EXERCISES)}")
    if not callable(answer):
        raise TypeError(f"Exercise {number}: expected the function itself, without arguments, got {answer!r}")
    exercise = EXERCISES[number]
    for case in exercise.cases:
        *arguments, expected = deepcopy(case)
        before, expected = plain(arguments), plain(expected)
        got = answer(*arguments)
        if got is ...:
            print(f"Exercise {number}: not filled in yet")
            return
        given = ", ".join(f"{name} = {shown(value)}" for name, value in zip(exercise.names, before, strict=True))
        if got is None:
            raise AssertionError(f"Exercise {number}: not filled in, or no `return`: expected {shown(expected)}, got None, for {given}")
        for name, old, new in zip(exercise.names, before, plain(arguments), strict=True):
            if old != new:
                raise AssertionError(f"Exercise {number}: expected {name} left as it is, got a changed input, for {given}")
        got = plain(got)
        if shape(got) == (1,) and not isinstance(expected, list):
            got = got[0]  # a number as a tensor of one entry
        if not exercise.agree(got, expected):
            raise AssertionError(f"Exercise {number}: expected {shown(expected)}, got {shown(got)}, for {given}")
    print(f"Exercise {number}: right")
