"""Statistics recorded while generating are those of the same text, probed later."""

import pytest
import torch

from ssd_probe.errors import UserError
from ssd_probe.kernels.stats import position_stats
from ssd_probe.probing.monitor import StatsProcessor
from tests.models import tiny_model

PROMPTS = torch.tensor([[0, 0, 5, 9], [7, 8, 5, 9], [4, 3, 11, 12]])
MASK = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])


def generated(monitor, **settings):
    settings = {"do_sample": True, "temperature": 1.7, "top_k": 5, "max_new_tokens": 12} | settings
    return tiny_model("qwen3").generate(
        PROMPTS, attention_mask=MASK, logits_processor=[monitor], pad_token_id=0, **settings
    )


def test_it_is_what_a_later_forward_gives():
    first = StatsProcessor(top_k=8)
    plain = generated(first, eos_token_id=None)
    eos = int(plain[1, 6])  # now a sequence ends early, and is padded
    torch.manual_seed(0)
    monitor = StatsProcessor(top_k=8, temperatures=(0.7,))
    ids = generated(monitor, eos_token_id=eos)
    frame, stats = monitor.result(ids, eos)
    mask = torch.cat([MASK, torch.ones_like(ids[:, 4:])], 1)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = tiny_model("qwen3")(ids, attention_mask=mask, position_ids=places).logits
    sequence, step = (torch.tensor(frame[name].to_numpy()) for name in ("sequence", "step"))
    assert torch.equal(torch.tensor(frame["token_id"].to_numpy()), ids[sequence, step + 4])
    want = position_stats(
        logits[sequence, step + 3], top_k=8, temperatures=(0.7,), targets=ids[sequence, step + 4]
    )
    assert torch.equal(stats.top_ids, want.top_ids)
    assert torch.equal(stats.target_rank, want.target_rank)
    torch.testing.assert_close(stats.entropy, want.entropy, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(stats.target_logprob, want.target_logprob, atol=1e-4, rtol=1e-4)
    for number, group in frame.groupby("sequence"):
        tokens = group["token_id"].tolist()
        assert eos not in tokens[:-1] and group["step"].tolist() == [*range(len(tokens))]
        assert tokens[-1] == eos or len(tokens) == ids.shape[1] - 4, number


def test_beams_reuse_and_nothing_are_refused():
    with pytest.raises(UserError, match="num_beams=1"):
        generated(StatsProcessor(), num_beams=3, do_sample=False, temperature=None, top_k=None)
    with pytest.raises(UserError, match="nothing recorded"):
        StatsProcessor().result(PROMPTS)
    monitor = StatsProcessor()
    generated(monitor)
    with pytest.raises(UserError, match="one for each generate"):
        generated(monitor)
