"""Whether an engine draws what the declared policy says: its draws against the model's own p.

At a few contexts the next token is drawn many times. No draw may lie outside the support, and the
frequencies must be those of p:

    X^2 = sum over cells (O - m p)^2 / (m p),    cells: each token with m p >= 5, and all rarer ones
                                                 together (with the rarest cell if that is below 5)

m draws a context. It is a chi-square of (cells - 1) degrees of freedom where p is exact; where an
engine's logits are rounded otherwise (bfloat16, another kernel), so that its probabilities are off
by `rounding` relative (root mean square), a non-central one with non-centrality m rounding^2, whose
quantile is then the threshold. Tests: one a context and one of their sum, for seeded and for
unseeded draws; the false-alarm rate is shared out among them (Bonferroni).

Where an engine tells the support itself, it must be that of p at every context, exactly.

Contexts are those at which wrong orders of temperature and truncation show most, and such that no
token stands within a hair of the support's edge, where rounding decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2, ncx2
from torch import Tensor

from ssd_probe.decoding import Decoding, Policy, spread
from ssd_probe.errors import UserError
from ssd_probe.kernels.supports.rules import row_of
from ssd_probe.policies.rivals import Cut, Rival, temperature_of, tempered

FALSE_ALARMS = 1e-3
RARE = 5  # expected draws, below which a token has no cell of its own
JUMPS = 16  # logits a hair off that a rival is tried at


def temperature_last(logits: Tensor, decoding: Decoding) -> Tensor:
    """Truncated at T=1, then tempered (llama.cpp's default, mlx): probabilities [..., V]."""
    left = Decoding(1.0, decoding.top_k, decoding.top_p).warp(logits.double())
    return (left / decoding.temperature).softmax(-1)


def joint(logits: Tensor, decoding: Decoding) -> Tensor:
    """Top-k and top-p of one distribution, the tempered one (SGLang): probabilities [..., V]."""
    z = logits.double()
    nucleus = Decoding(decoding.temperature, 0, decoding.top_p).warp(z)
    top = Decoding(decoding.temperature, decoding.top_k, 1.0).warp(z)
    return nucleus.masked_fill(top == -torch.inf, -torch.inf).softmax(-1)


def without(**off: Any) -> Callable[[Tensor, Decoding], Tensor]:
    """A setting that did not arrive."""

    def probabilities(logits: Tensor, decoding: Decoding) -> Tensor:
        kept = {"temperature": decoding.temperature, "top_k": decoding.top_k}
        return Decoding(**{**kept, "top_p": decoding.top_p, **off}).probabilities(logits.double())

    return probabilities


def decoding_alone(logits: Tensor, policy: Rival) -> Tensor:
    """Without the rival's own part."""
    return policy.decoding.probabilities(logits.double())


def rule_first(logits: Tensor, policy: Cut) -> Tensor:
    """The rule before top-k and top-p (vLLM's own min-p): probabilities [C, V]."""
    z = tempered(logits, temperature_of(policy.decoding))
    keeps = policy.rule.keeps(z, row_of(z))
    return policy.decoding.probabilities(logits.double().masked_fill(~keeps, -torch.inf))


def rule_untempered(logits: Tensor, policy: Cut) -> Tensor:
    """The rule at T=1 of what the decoding left: probabilities [C, V]."""
    left = policy.decoding.warp(logits.double())
    z = tempered(logits, 1.0).masked_fill(left == -torch.inf, -torch.inf)
    return left.masked_fill(~policy.rule.keeps(z, row_of(z)), -torch.inf).softmax(-1)


def declared(logits: Tensor, policy: Policy, ids: Any = None, tokenizer: Any = None) -> Tensor:
    """`ids`: those before each row [C, V], for a policy that reads the text."""
    logits = logits.double()
    return spread(logits, *policy.bound(tokenizer)(ids, logits)).softmax(-1)


WRONG: dict[str, Callable[[Tensor, Decoding], Tensor]] = {
    "temperature last": temperature_last,
    "top-k and top-p of one distribution": joint,
    "no temperature": without(temperature=1.0),
    "no top-k": without(top_k=0),
    "no top-p": without(top_p=1.0),
}
ALONE: dict[str, Callable[[Tensor, Rival], Tensor]] = {"the decoding alone": decoding_alone}
WRONG_CUTS: dict[str, Callable[[Tensor, Cut], Tensor]] = {
    "the rule before top-k and top-p": rule_first,
    "the rule at T=1": rule_untempered,
}


def _by(order: Callable[[Tensor, Any], Tensor], policy: Policy, logits: Tensor) -> Tensor:
    return order(logits, policy)


def wrong_orders(policy: Policy) -> dict[str, Callable[[Tensor], Tensor]]:
    """What could be drawn from instead, by name."""
    orders: dict[str, Callable[[Tensor, Any], Tensor]] = {}
    orders |= ALONE if isinstance(policy, Rival) else WRONG
    orders |= WRONG_CUTS if isinstance(policy, Cut) else {}
    return {name: partial(_by, order, policy) for name, order in orders.items()}


@dataclass(frozen=True)
class Context:
    """Token ids and the model's logits [V] after them."""

    ids: list[int]
    logits: Tensor


def choose(
    contexts: Sequence[Context],
    policy: Policy,
    count: int,
    rounding: float,
    tokenizer: Any = None,
) -> list[Context]:
    """`count` of the contexts: those that tell most, for each wrong order in turn.

    Told apart by total variation; where an order changes nothing, by the entropy of p. `UserError`
    where every context has a token at the support's edge.
    """
    hair = max(1e-4, rounding)
    clear = [each for each in contexts if _clear(each, policy, hair, tokenizer)]
    if not clear:
        raise UserError("every context has a token within rounding of the support's edge")
    p = _declared(clear, policy, tokenizer)
    logits = torch.stack([each.logits for each in clear])
    entropy = -torch.special.xlogy(p, p).sum(-1)
    rankings = []
    for wrong in wrong_orders(policy).values():
        apart = (wrong(logits) - p).abs().sum(-1) / 2
        told = apart if apart.max() > 1e-6 else entropy
        rankings.append(told.argsort(descending=True).tolist())
    rankings.append(entropy.argsort(descending=True).tolist())
    chosen: dict[int, None] = {}
    for rank in range(len(clear)):
        for ranking in rankings:
            if len(chosen) < count:
                chosen.setdefault(ranking[rank])
    return [clear[place] for place in chosen]


def _declared(contexts: Sequence[Context], policy: Policy, tokenizer: Any) -> Tensor:
    logits = torch.stack([each.logits for each in contexts])
    return declared(logits, policy, [each.ids for each in contexts], tokenizer)


def _clear(context: Context, policy: Policy, hair: float, tokenizer: Any) -> bool:
    """Whether the support is the same with logits and top-p a hair off."""
    if not isinstance(policy, Decoding):
        return _steady(context, policy, hair, tokenizer)
    z, k = context.logits.double(), policy.top_k
    support = declared(z, policy) > 0
    for slack in (-hair, hair) if policy.top_p < 1 else ():
        top_p = min(1.0, max(hair, policy.top_p + slack))
        other = Decoding(policy.temperature, k, top_p)
        if not torch.equal(declared(z, other) > 0, support):
            return False
    if 0 < k < len(z):
        edge = z.topk(k + 1).values
        return bool(edge[k - 1] - edge[k] > 10 * hair)
    return True


def _steady(context: Context, policy: Policy, hair: float, tokenizer: Any) -> bool:
    """Whether p moves by no more than logits do, at some that are a hair off: no jump is near."""
    noise = torch.Generator().manual_seed(0)
    z = context.logits.double()
    off = torch.randn(JUMPS, len(z), generator=noise, dtype=z.dtype) * 3 * hair
    others = [Context(context.ids, z), *(Context(context.ids, z + each) for each in off)]
    p = _declared(others, policy, tokenizer)
    same = ((p > 0) == (p[:1] > 0)).all()
    return bool(same and (p - p[:1]).abs().max() < 30 * hair)


def compare(
    draws: Sequence[Sequence[int]], p: Tensor, rounding: float, alpha: float
) -> dict[str, Any]:
    """Draws of each context against p [C, V]: every test's numbers, and whether all hold.

    `alpha`: the false-alarm rate of all of them together.
    """
    tests = [_test(np.asarray(each), row.numpy()) for each, row in zip(draws, p, strict=True)]
    most = alpha / (len(tests) + 1)
    total = {"statistic": 0.0, "cells": 1, "draws": 0}
    for test in tests:
        total["statistic"] += test["statistic"]
        total["cells"] += test["cells"] - 1
        total["draws"] += test["draws"]
    for test in (*tests, total):
        test["p_value"] = _p_value(test, rounding)
    outside = sum(test["outside"] for test in tests)
    good = not outside and all(test["p_value"] >= most for test in (*tests, total))
    return {"passed": good, "outside": outside, **total, "contexts": tests}


def _test(draws: np.ndarray, p: np.ndarray) -> dict[str, Any]:
    counts = np.bincount(draws, minlength=len(p))[: len(p)]
    support = p > 0
    outside = len(draws) - int(counts[support].sum())
    expected, seen = p[support] * len(draws), counts[support].astype(float)
    order = np.argsort(-expected)
    expected, seen = expected[order], seen[order]
    own = int((expected >= RARE).sum())
    if expected[own:].sum() < RARE:  # together still too rare for a cell
        own = max(own - 1, 0)
    cells = np.append(expected[:own], expected[own:].sum())
    found = np.append(seen[:own], seen[own:].sum())
    cells, found = cells[cells > 0], found[cells > 0]
    statistic = float(((found - cells) ** 2 / cells).sum())
    rare = float(expected[own:].sum()) if len(expected) - own > 1 else 0.0
    about = {"draws": len(draws), "support": int(support.sum()), "outside": outside}
    return {**about, "cells": len(cells), "pooled_expected": rare, "statistic": statistic}


def _p_value(test: dict[str, Any], rounding: float) -> float:
    freedom = test["cells"] - 1
    if freedom < 1:
        return 1.0
    if not rounding:
        return float(chi2.sf(test["statistic"], freedom))
    return float(ncx2.sf(test["statistic"], freedom, test["draws"] * rounding**2))


def examine(
    draw: Callable[[Sequence[int], int, int | None], list[int]],
    contexts: Sequence[Context],
    policy: Policy,
    *,
    draws: int,
    tokenizer: Any = None,
    seed: int = 0,
    rounding: float = 0.0,
    alpha: float = FALSE_ALARMS,
    support: Callable[[Sequence[int]], Sequence[int] | None] = lambda ids: None,
) -> dict[str, Any]:
    """Seeded and unseeded draws, `draws` of each, of `draw(ids, count, seed or None)`.

    `fits`: the wrong order that explains what did not pass. `repeatable`: whether the same seed
    gave the same draws again. `supports`: at how many contexts the engine's own words, of
    `support(ids)`, are of another support; None where it does not tell.
    """
    each = -(-draws // len(contexts))
    logits = torch.stack([context.logits for context in contexts])
    p, found, paths = _declared(contexts, policy, tokenizer), {}, {}
    for path in ("seeded", "unseeded"):
        seeds = [seed * 1000 + c if path == "seeded" else None for c in range(len(contexts))]
        found[path] = [draw(c.ids, each, s) for c, s in zip(contexts, seeds, strict=True)]
        paths[path] = compare(found[path], p, rounding, alpha / 2)
    again = draw(contexts[0].ids, min(each, 64), seed * 1000)
    told = [support(context.ids) for context in contexts]
    others = _other_supports(told, p)
    passed = all(each["passed"] for each in paths.values()) and not others
    result: dict[str, Any] = {
        "passed": passed,
        "false_alarm_rate": alpha,
        "rounding": rounding,
        "draws": {path: sum(map(len, each)) for path, each in found.items()},
        "repeatable": again == found["seeded"][0][: len(again)],
        "supports": None if others is None else {"contexts": len(told), "other": others},
        "paths": paths,
    }
    if not passed:
        result["fits"] = [
            name
            for name, wrong in wrong_orders(policy).items()
            if all(
                compare(each, wrong(logits), rounding, alpha / 2)["passed"]
                for each in found.values()
            )
            and not _other_supports(told, wrong(logits))
        ]
    return result


def _other_supports(told: Sequence[Sequence[int] | None], p: Tensor) -> int | None:
    """How many are not those of p [C, V]; None where one is missing."""
    if None in told:
        return None
    own = [set(row.nonzero().flatten().tolist()) for row in p]
    return sum(set(each or ()) != support for each, support in zip(told, own, strict=True))
