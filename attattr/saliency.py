"""One number for each token of a text: how much it mattered. Attention, attribution, gradients and blank-out, side by side.

Abnar & Zuidema (ACL 2020) ask how well attention ranks the tokens: raw, by rollout and by flow, against what blanking a token
changes, and against input gradients. Here is what that takes, without their code's faults: the relevance of a token by each
method, Spearman's correlation with ties, and the curves of DeYoung et al. (ACL 2020), which mask the most relevant tokens.

Attention and attribution scores are read from an `Attribution`, in the row of the token that the classifier reads. Gradients and
blank-out ask the model again, through its word embeddings. F is what `attattr.decision` makes of the target.

A *blank* stands where a word is taken away: the tokenizer's mask token, or its padding or unknown token where it has none.
The special tokens that the tokenizer adds are no words of the text: leave them out of correlations (`ordinary_tokens`).
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from .batches import TOKENS_PER_PASS, Model, Text, Tokenizer, batches, check_texts
from .connections import Attribution, chained, one_text, within
from .decision import decide, decision_value, read
from .flow import attention_flow, attention_rollout, scores_as_attention
from .heads import check_pair
from .model import check_parameters, gradients_of, run
from .quadrature import rule
from .tap import GRADIENT_SCALE

Relevance = Callable[[Model, Tokenizer, Attribution], Tensor]

TENTHS = tuple(k / 10 for k in range(11))
EMBEDDING_STEPS = (40, 80, 160)  # measured on nine sentences: 20 nodes are off by up to 6 %, 40 by 1 %, 80 by 0.002 %


def classifier_row(att: Attribution) -> int:
    """The token whose row the classifier reads: the only query that has scores in the last layer. [CLS]; of GPT-2, the last.

    Raises:
        ValueError: no query has, or several have: the classifier reads more than one token.
    """
    rows = att.scores[-1].abs().sum((0, 2)).nonzero()[:, 0].tolist()
    if len(rows) != 1:
        raise ValueError(f"in the last layer {len(rows)} of {len(att.tokens)} tokens have scores as queries, expected one: pass row=")
    return rows[0]


def read_row(att: Attribution, matrices: Float[Tensor, "L N N"], row: int | str | None = None) -> Float[Tensor, "L N"]:
    """What one token sees of each token, in each layer's matrix of attention, rollout, flow or scores.

    Args:
        att: the attribution of the text that the matrices are of.
        matrices: row i belongs to token i as the query, column j to token j as the key.
        row: the query; None: the token that the classifier reads (`classifier_row`); ``"max"``: for each token, the largest
            that any query has for it, as in Abnar & Zuidema's released code.

    Raises:
        ValueError: no such row; None where the classifier reads several.

    >>> import attattr
    >>> att = attattr.attribute(*attattr.load("sst2"), "a warm and funny film .", steps=2)
    >>> rollout = read_row(att, attattr.attention_rollout(att.attention))
    >>> classifier_row(att), rollout.shape, round(float(rollout[-1].sum()), 4)
    (0, torch.Size([6, 8]), 1.0)
    """
    one_text(att)
    tokens = matrices.shape[-1]
    if row == "max":
        return matrices.amax(-2)
    place = classifier_row(att) if row is None else row
    if not isinstance(place, int) or not -tokens <= place < tokens:
        raise ValueError(f"row={row!r}: expected a token from 0 to {tokens - 1} (or from -1, the last), 'max', or None")
    return matrices[:, place]


def ordinary_tokens(tokenizer: Tokenizer, text: Text) -> Bool[Tensor, " N"]:
    """Which tokens are the text's own, not added by the tokenizer ([CLS], [SEP], ``<s>``). An unknown word is the text's own.

    Raises:
        TypeError, ValueError: what is not one text, or an empty one.

    >>> import attattr
    >>> _, tokenizer = attattr.load("sst2")
    >>> ordinary_tokens(tokenizer, "a warm film").tolist()
    [False, True, True, True, False]
    """
    (only, *_), many = check_texts(text)
    if many:
        raise TypeError("a list of texts: expected one text, a string or a pair of strings")
    found = tokenizer(*(only if isinstance(only, tuple) else (only,)), return_special_tokens_mask=True)
    return ~torch.tensor(found["special_tokens_mask"], dtype=torch.bool)


class Words:
    """One text as a model takes it that starts from word embeddings, and F of it, once every check of the text and the class is passed."""

    def __init__(self, model: Model, tokenizer: Tokenizer, text: Text, target: Any) -> None:
        check_parameters(model)
        self.model, self.tokenizer, self.ordinary = model, tokenizer, ordinary_tokens(tokenizer, text)
        if "inputs_embeds" not in inspect.signature(model.forward).parameters:
            raise TypeError(f"{type(model).__name__} takes no inputs_embeds: expected a model that can start from word embeddings")
        # Tensors made in inference mode can never take part in a gradient, so leave it if the caller is in it.
        with torch.inference_mode(False), torch.no_grad():
            (batch,) = batches(model, tokenizer, [text], TOKENS_PER_PASS)
            self.inputs = dict(batch.inputs)
            self.read = partial(read, target, batch.examples())
            outputs = run(model, self.inputs)
            self.decision = decide(model, tokenizer, outputs, self.read(outputs, torch.zeros(1).long()), [target])
            self.target = tuple(self.decision.targets[0].tolist()) if self.decision.targets.shape[1] > 1 else int(self.decision.targets)
            self.embeddings: Float[Tensor, "1 N D"] = model.get_input_embeddings()(self.inputs.pop("input_ids"))

    def blanked(self, absent: Bool[Tensor, "R N"], blank: str | None = None) -> Float[Tensor, "R N D"]:
        """The embeddings with that of a token wherever ``absent`` is true, once for each of R choices.

        The token is ``blank``, or the first that there is of the tokenizer's mask, padding and unknown tokens.

        Raises:
            ValueError: no such token.
        """
        usual = (self.tokenizer.mask_token_id, self.tokenizer.pad_token_id, self.tokenizer.unk_token_id)
        asked = usual if blank is None else (self.tokenizer.get_vocab().get(blank),)
        found = [id for id in asked if id is not None]
        if not found:
            raise ValueError(f"blank={blank!r}: expected one of the tokenizer's tokens, or None if it has a mask, padding or unknown token")
        embedding = self.model.get_input_embeddings()(torch.tensor(found[:1], device=self.embeddings.device)).detach()
        return torch.where(absent.to(embedding.device)[..., None], embedding, self.embeddings)

    def decisions(self, embeddings: Float[Tensor, "R N D"], gradient: bool = False) -> Float[Tensor, " R"] | Float[Tensor, "R N D"]:
        """F of R texts that differ in their embeddings only, or with ``gradient`` ∂F/∂embeddings; in float64.

        None is padded, so all positions stay what they are. The parameters' own gradients are not touched.
        """
        found = []
        with torch.inference_mode(False), torch.set_grad_enabled(gradient):
            for some in embeddings.split(max(1, TOKENS_PER_PASS // embeddings.shape[1])):
                leaf = some.clone().requires_grad_(gradient)
                inputs = {name: tensor.expand(len(some), -1) for name, tensor in self.inputs.items()} | {"inputs_embeds": leaf}
                logits = self.read(run(self.model, inputs), torch.zeros(len(some)).long())
                value = decision_value(logits, self.decision.targets.expand(len(some), -1), self.decision.own)
                if gradient:
                    value = gradients_of(value.sum() * GRADIENT_SCALE, [leaf])[0].double() / GRADIENT_SCALE
                found.append(value.cpu())
        return torch.cat(found)


def input_gradient(model: Model, tokenizer: Tokenizer, text: Text, target: Any = "predicted") -> Float[Tensor, " N"]:
    """‖∂F/∂x_i‖₂: how strongly the probability reacts to a small change of word embedding x_i.

    Abnar & Zuidema's code takes ``|Σ_d ∂F/∂x_id|`` instead. Where layer norms are all that reads the embeddings (BERT, RoBERTa,
    DistilBERT, ALBERT, GPT-2), adding one number to all of x_i changes nothing, so that sum is 0 but for rounding.

    Args:
        model: a sequence classifier of transformers that takes ``inputs_embeds``. It is left exactly as it was.
        tokenizer: the model's own.
        text: a string, or a pair of strings (a tuple).
        target: what is explained, as for `attattr.attribute`.

    Raises:
        TypeError: text that is not one text; a model that cannot start from word embeddings.
        ValueError: empty or too long text, an unknown target, logits that are not finite.
    """
    words = Words(model, tokenizer, text, target)
    return words.decisions(words.embeddings, gradient=True)[0].norm(dim=-1).float()


def gradient_times_input(model: Model, tokenizer: Tokenizer, text: Text, target: Any = "predicted") -> Float[Tensor, " N"]:
    """Σ_d x_id ∂F/∂x_id, arguments and errors as of `input_gradient`. Signed."""
    words = Words(model, tokenizer, text, target)
    return (words.embeddings.double().cpu() * words.decisions(words.embeddings, gradient=True))[0].sum(-1).float()


def integrated_gradients(
    model: Model,
    tokenizer: Tokenizer,
    text: Text,
    target: Any = "predicted",
    blank: str | None = None,
    steps: int | str = "auto",
    tolerance: float = 1e-2,
) -> Float[Tensor, " N"]:
    """Integrated gradients of the word embeddings (Sundararajan et al., ICML 2017): Σ_d (x_id - b_d) ∫₀¹ ∂F(b + α(x - b))/∂x_id dα.

    The path starts where every ordinary token is the blank b; special tokens stay, and have 0. Signed: the sum is F(x) - F(b).

    Args:
        model, tokenizer, text, target: as for `input_gradient`.
        blank: a token of the tokenizer; None: its mask token, or else its padding or unknown token.
        steps: nodes of the Gauss-Legendre rule, or ``"auto"``: as many as the tolerance needs.
        tolerance: for ``"auto"``, the relative error (estimated, Euclidean norm), and that of the sum, as in `attribute`.

    Raises:
        TypeError, ValueError: as `input_gradient`; no blank; an unknown number of steps.

    Warns:
        UserWarning: the tolerance could not be met.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance!r}: expected a number between 0 and 1")
    words = Words(model, tokenizer, text, target)
    empty = words.blanked(words.ordinary[None], blank)
    path = words.embeddings - empty
    difference = words.decisions(torch.cat([empty, words.embeddings])).diff()
    found = torch.full(words.ordinary.shape, torch.inf, dtype=torch.float64)
    for count in EMBEDDING_STEPS if steps == "auto" else (steps,):
        current = rule("gauss-legendre", count)
        slopes = words.decisions(empty + current.nodes.to(empty)[:, None, None] * path, gradient=True)
        combined = (path.double().cpu() * torch.einsum("wm,mnd->wnd", current.weights, slopes)).sum(-1)
        distance = min(current.error(combined[1:].norm(dim=1)), (combined[0] - found).norm())
        found = combined[0]
        error, gap = distance / found.norm().clamp_min(1e-30), (found.sum() - difference).abs()
        if steps != "auto" or within(error, gap, difference, tolerance).all():
            break
    else:
        warnings.warn(f"integrated gradients did not meet {tolerance=}: error {error:.2g}, {gap[0]:.2g} from the sum", stacklevel=2)
    return found.float()


def blank_out(model: Model, tokenizer: Tokenizer, text: Text, target: Any = "predicted", blank: str | None = None) -> Float[Tensor, " N"]:
    """F(x) - F(x with token i blanked), for every token, special ones too: what the probability loses. Signed.

    Abnar & Zuidema take its absolute value for the importance of the token. Arguments and errors as of `integrated_gradients`.

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> lost = blank_out(model, tokenizer, "a warm and funny film .")
    >>> tokenizer.tokenize("a warm and funny film .")[int(lost[1:-1].argmax())]
    'funny'
    """
    words = Words(model, tokenizer, text, target)
    tokens = len(words.ordinary)
    each_and_none = torch.eye(tokens + 1, tokens, dtype=torch.bool)
    found = words.decisions(words.blanked(each_and_none, blank))
    return (found[-1] - found[:-1]).float()


# Every relevance by one signature, ``(model, tokenizer, att)``: "L N" for what has one number in each layer, else "N".
#
# The scores of all rows of a layer sum to ``att.difference[l]``, in the last layer those of the classifier's row alone; only in the
# first layer is what stands at a token's place nothing but that token. For a decoder, or the largest over queries, call `read_row`.
#
# Those of ``SIGNED`` tell what speaks for the class from what speaks against it. Compare them as they are with what blank-out says with
# its sign, or their absolute values with the size of the change. The others are never negative.
SIGNED: dict[str, Relevance] = {
    "attribution, its row": lambda model, tokenizer, att: read_row(att, att.scores.sum(1)),
    "attribution, all rows": lambda model, tokenizer, att: one_text(att).scores.sum((1, 2)),
    "attribution, all layers": lambda model, tokenizer, att: one_text(att).scores.sum((0, 1, 2)),
    "gradient × input": lambda model, tokenizer, att: gradient_times_input(model, tokenizer, att.text, att.target),
    "integrated gradients": lambda model, tokenizer, att: integrated_gradients(model, tokenizer, att.text, att.target),
    "blank-out": lambda model, tokenizer, att: blank_out(model, tokenizer, att.text, att.target),
}
RELEVANCES: dict[str, Relevance] = SIGNED | {
    "raw attention": lambda model, tokenizer, att: read_row(att, att.attention.mean(1)),
    "rollout": lambda model, tokenizer, att: read_row(att, attention_rollout(att)),
    "flow": lambda model, tokenizer, att: read_row(att, attention_flow(att)),
    "rollout of attribution": lambda model, tokenizer, att: read_row(att, attention_rollout(scores_as_attention(chained(att).scores))),
    "flow of attribution": lambda model, tokenizer, att: read_row(att, attention_flow(scores_as_attention(chained(att).scores))),
    "gradient": lambda model, tokenizer, att: input_gradient(model, tokenizer, att.text, att.target),
}


def rank_correlation(one: Float[Tensor, " N"], other: Float[Tensor, " _N"]) -> float:
    """Spearman's ρ of two relevances of the same tokens: Pearson's r of their ranks, equal values sharing the mean of theirs.

    Give the ordinary tokens only: special ones, which attention favours, would decide the outcome. Two tokens give ±1.

    Raises:
        ValueError: unequal lengths, fewer than two tokens, numbers that are not finite, or all the same (no ranks: ρ is undefined).

    >>> rank_correlation(torch.tensor([1.0, 1.0, 1.0, 2.0, 3.0, 3.0]), torch.arange(6.0, 0.0, -1.0))
    -0.9258200997725515
    """
    check_pair(one, other, "token")
    return float(stats.spearmanr(one.cpu().numpy(), other.cpu().numpy()).statistic)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """The mean over sentences and its confidence interval (Student's t). A ``ValueError`` for fewer than two, or a NaN."""
    found = torch.tensor(values, dtype=torch.float64)
    if len(found) < 2 or not found.isfinite().all():
        raise ValueError(f"{len(found)} values, {int((~found.isfinite()).sum())} not finite: expected at least two finite numbers")
    mean, half = float(found.mean()), float(found.std() / math.sqrt(len(found)) * stats.t.ppf((1 + confidence) / 2, len(found) - 1))
    return mean, mean - half, mean + half


@dataclass(frozen=True)
class MaskingCurves:
    """F as the most relevant tokens of one text are masked, or all but them: a deletion and an insertion curve."""

    shares: Float[Tensor, " S"]  #: of the ordinary tokens
    without: Float[Tensor, " S"]  #: F with the share that is most relevant masked (deletion)
    only: Float[Tensor, " S"]  #: F with the others masked (insertion)
    whole: float  #: F of the text as it is
    target: int | tuple[int, ...]  #: the class, or the tokens, explained

    @property
    def comprehensiveness(self) -> float:
        """Mean over shares of F(text) - F(without), large where the relevant tokens were needed."""
        return float((self.whole - self.without).mean())

    @property
    def sufficiency(self) -> float:
        """Mean over shares of F(text) - F(only), small where the relevant tokens were enough."""
        return float((self.whole - self.only).mean())


def masking_curves(
    model: Model,
    tokenizer: Tokenizer,
    text: Text,
    relevance: Float[Tensor, " N"],
    target: Any = "predicted",
    shares: Sequence[float] = TENTHS,
    blank: str | None = None,
) -> MaskingCurves:
    """Mask the most relevant tokens, and all but them: comprehensiveness and sufficiency (ERASER; DeYoung et al., ACL 2020).

    ERASER takes tokens out of the text; here blanks take their places, so that nothing else moves. Its shares are 0.01, 0.05, 0.1,
    0.2 and 0.5; with equal steps from 0 to 1 the mean is, but for half a step at the ends, the area between curve and F(text).

    Args:
        model, tokenizer, text, target, blank: as for `integrated_gradients`.
        relevance: one number for each token, the largest first; of equals the first in the text first. Special tokens are never
            masked: what they have is ignored.
        shares: of the ordinary tokens, from 0 to 1; rounded up to whole tokens.

    Raises:
        TypeError, ValueError: as `integrated_gradients`; relevance of another length or not finite; fewer than two ordinary
            tokens; shares outside 0 to 1.
    """
    if not len(shares) or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"shares={tuple(shares)}: expected at least one, each from 0 to 1")
    words = Words(model, tokenizer, text, target)
    if relevance.shape != words.ordinary.shape or not relevance.isfinite().all():
        given = f"{list(relevance.shape)}, {int(relevance.isfinite().sum())} of it finite"
        raise ValueError(f"relevance of shape {given}: expected a finite number for each of the {len(words.ordinary)} tokens")
    count = int(words.ordinary.sum())
    if count < 2:
        raise ValueError(f"{text!r} has {count} token besides the special ones: expected at least two to rank")
    rank = relevance.detach().cpu().masked_fill(~words.ordinary, -torch.inf).argsort(descending=True, stable=True).argsort()
    first = torch.stack([rank < math.ceil(share * count - 1e-9) for share in (0.0, *shares)])  # none, and then those of the shares
    choices, place = torch.cat([first, words.ordinary & ~first]).unique(dim=0, return_inverse=True)  # short texts repeat some
    without, only = words.decisions(words.blanked(choices, blank))[place].float().chunk(2)
    return MaskingCurves(torch.tensor(shares, dtype=torch.float32), without[1:], only[1:], float(without[0]), words.target)
