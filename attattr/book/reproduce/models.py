"""How good the models are, and how exact their attributions (chapter 3; page "Models and data")."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ...attribution import attribute
from ...batches import Model, Text, Tokenizer, texts_of
from ...data import examples
from ..training.evaluation import answers, judged
from .running import Measured, Rows, Run, chunk, drawn, resumable, rounded

ANSWERED = 250  # rows of a job of `accuracy`
# Of Gauss-Legendre. In the small model 16 are no further than 1e-5 from 48, see the tests; in the large one a layer that gives next to
# nothing can have a step on its path, where they differ.
REFERENCE_STEPS = {"small": 16, "base": 48}
TOLERANCES = {"auto": 1e-2, "auto 0.001": 1e-3}
RULES = (("riemann", 20), ("gauss-legendre", 4), ("gauss-legendre", 6), ("clenshaw-curtis", 5))
COMPARED = 100  # texts on which these are measured, too
CHECKED = (*(("gauss-legendre", steps) for steps in (1, 2, 3, 4, 6)), ("riemann", 20))  # rules whose completeness is asked


def accuracy(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """How often the model of a task is right on the real validation split and our own examples, none cut (page "Models and data")."""
    splits = {"dev": drawn(run), "own": examples(run.task)}
    jobs = [(split, at) for split, rows in splits.items() for at in range(0, len(rows), ANSWERED)]
    lines = resumable(run, "answers", jobs, lambda split, at: answers(model, tokenizer, chunk(splits[split], at, ANSWERED)))
    found: Rows = []
    for split in splits:
        measured = judged(model, [pair for (of, _), line in zip(jobs, lines, strict=True) if of == split for pair in line])
        common = {"split": split, "rows": measured["rows"]}
        found.append(common | {"measure": "accuracy", "class": "all", "value": measured["accuracy"]})
        for measure, key in (("accuracy", "per_class"), ("f1", "f1")):
            found += [common | {"measure": measure, "class": label, "value": value} for label, value in measured[key].items()]
    return found, {}


def certificate(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """How exact ``steps="auto"`` is, and how exact it says it is, against `REFERENCE_STEPS` (chapter 3)."""
    texts = texts_of(drawn(run))

    def measure(number: int, text: Text) -> Rows:
        exact = attribute(model, tokenizer, text, steps=REFERENCE_STEPS[run.size]).scores
        found = {rule: attribute(model, tokenizer, text, tolerance=tolerance) for rule, tolerance in TOLERANCES.items()}
        found |= {
            f"{method} {steps}": attribute(model, tokenizer, text, method=method, steps=steps)
            for method, steps in RULES * (number < COMPARED)
        }
        rows = []
        for rule, att in found.items():
            of_layers = zip(att.evaluations.tolist(), relative_errors(att.scores, exact), rounded(att.error, 3), strict=True)
            for layer, (evaluations, error, told) in enumerate(of_layers):
                certificate = {"reported": told, "certified": att.certified} if rule in TOLERANCES else {}
                common = {"text": number, "tokens": len(att.tokens), "layer": layer, "rule": rule}
                rows.append(common | {"evaluations": evaluations, "error": error} | certificate)
        return rows

    lines = resumable(run, "texts", list(enumerate(texts)), measure)
    return [row for line in lines for row in line], {"texts": len(texts)}


def completeness(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """How far the scores of a layer are from their sum, F(A) - F(0), and how wrong they are: what the usual check tells (chapter 3)."""

    def measure(number: int, text: Text) -> Rows:
        exact = attribute(model, tokenizer, text, steps=REFERENCE_STEPS[run.size]).scores
        rows = []
        for method, steps in CHECKED:
            att = attribute(model, tokenizer, text, method=method, steps=steps)
            measured = (rounded(att.difference, 3), rounded(att.completeness, 3), relative_errors(att.scores, exact))
            for layer, (difference, gap, error) in enumerate(zip(*measured, strict=True)):
                named = {"text": number, "layer": layer, "rule": f"{method} {steps}"}
                rows.append(named | {"difference": difference, "gap": gap, "error": error})
        return rows

    lines = resumable(run, "texts", list(enumerate(texts_of(drawn(run)))), measure)
    return [row for line in lines for row in line], {"texts": len(lines)}


def relative_errors(scores: Float[Tensor, "L H N N"], exact: Float[Tensor, "L H N N"]) -> list[float]:
    """For each layer, the distance to the exact scores relative to their size (Frobenius norms)."""
    return rounded((scores - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1), 3)
