"""Streams of random numbers: every sample its own, the right distribution, no batch in sight."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from ssd_probe.core.sample import sample
from ssd_probe.core.streams import StreamedDraws, stream
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.models.checkpoints import load_model, load_tokenizer
from ssd_probe.problems.prompts import read_prompts

PROMPTS = read_prompts("tiny:dev", 12)
DECODING = Decoding(1.6, 20, 0.8)


class Given:
    """A stream that gives these numbers."""

    def __init__(self, *numbers: float):
        self.numbers = iter(numbers)

    def random(self) -> float:
        return next(self.numbers)


def drawn(decoding, logits, streams):
    left = StreamedDraws(decoding, streams)(torch.empty(len(logits), 0), logits)
    assert (left.isfinite().sum(-1) == 1).all()
    return left.argmax(-1)


SETTINGS = [Decoding(), DECODING, Decoding(0.7, 3), Decoding(2.0, 0, 0.6)]


@pytest.mark.parametrize("decoding", SETTINGS, ids=str)
def test_frequencies_are_those_of_the_decoding(decoding):
    logits = 2 * torch.randn(1, 37)
    draws = 20_000
    tokens = drawn(decoding, logits.expand(draws, -1), [stream(7, "p", i) for i in range(draws)])
    expected = decoding.warp(logits)[0].double().softmax(-1).numpy()
    counts = np.bincount(tokens.numpy(), minlength=37)
    assert counts[expected == 0].sum() == 0
    alive = expected > 0
    # A right sampler fails at this level once in a million seeds; this one is fixed.
    assert chisquare(counts[alive], expected[alive] * draws).pvalue > 1e-6


def test_the_ends_of_the_unit_interval_draw_tokens_with_mass():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]]).repeat(2, 1)
    last = np.nextafter(1.0, 0.0)
    assert drawn(Decoding(), logits, [Given(0.0), Given(last)]).tolist() == [1, 3]
    flat = torch.zeros(1, 151_936)  # sums of it do not end on 1
    assert drawn(Decoding(), flat, [Given(last)]).tolist() == [151_935]


def test_logits_that_are_no_numbers_are_refused():
    logits = torch.full((1, 5), torch.nan)
    with pytest.raises(UserError, match="NaN or infinite"):
        StreamedDraws(Decoding(), [Given(0.5)])(torch.empty(1, 0), logits)


def test_streams_never_meet():
    names = [
        (seed, problem, i) for seed in range(5) for problem in ("a", "b", "1") for i in range(8)
    ]
    first = {tuple(stream(*name).random(4)) for name in names}
    assert len(first) == len(names)
    assert stream(3, "a", 1).random(4).tolist() == stream(3, "a", 1).random(4).tolist()


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny"), load_tokenizer("tiny")


def answers(tiny, prompts=PROMPTS, **options):
    rows = sample(*tiny, prompts, DECODING, max_new_tokens=48, **options)
    return {row["sample_id"]: row["completion_ids"] for row in rows}


def test_a_sample_does_not_depend_on_its_batch(tiny):
    """Batch sizes 1 and 5, other prompts beside it, more samples of the same prompt."""
    whole = answers(tiny, n=2, batch_size=64)
    assert answers(tiny, n=2, batch_size=1) == whole
    assert answers(tiny, n=2, batch_size=5) == whole
    alone = answers(tiny, PROMPTS[3:5], n=1)
    assert alone == {name: whole[name] for name in alone}
    assert len({tuple(ids) for ids in whole.values()}) > len(whole) / 2


def test_one_seed_does_not_repeat_the_batches_of_another(tiny):
    """With seed + batch number, batch 1 of seed 0 drew exactly what batch 0 of seed 1 draws."""
    same = PROMPTS[0]
    alike = [type(same)(f"{name}", same.messages, same.text, same.meta) for name in range(8)]
    zero = list(answers(tiny, alike, seed=0, batch_size=4).values())
    one = list(answers(tiny, alike, seed=1, batch_size=4).values())
    assert zero[4:] != one[:4]
    assert zero[:4] != zero[4:]
