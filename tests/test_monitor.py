"""Statistics while `generate` runs are those of a probe of what it wrote."""

import numpy as np
import pytest
import torch

from ssd_probe.errors import UserError
from ssd_probe.models.checkpoints import load_model, load_tokenizer
from ssd_probe.probing.monitor import StatsProcessor
from ssd_probe.probing.probe import probe
from ssd_probe.problems.texts import Text

SAME = ("entropy", "max_logit", "tail_log_mass")  # columns of one name


@pytest.fixture(scope="module")
def tiny():
    tokenizer = load_tokenizer("tiny")
    tokenizer.padding_side = "left"
    return load_model("tiny"), tokenizer


def generate(tiny, monitor, **options):
    model, tokenizer = tiny
    chats = [[{"role": "user", "content": text}] for text in ("Add two numbers.", "Say it.")]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
    )  # fmt: skip
    settings = {"do_sample": True, "max_new_tokens": 40, "temperature": 0.6, "top_k": 5, **options}
    ids = model.generate(**inputs, logits_processor=[monitor], **settings)
    return inputs, ids


def test_as_a_probe_of_the_text(tiny, tmp_path):
    model, tokenizer = tiny
    stops = {tokenizer.eos_token_id, *np.atleast_1d(model.generation_config.eos_token_id)}
    monitor = StatsProcessor(stops, temperatures=(1.6,))
    inputs, ids = generate(tiny, monitor)
    frame = monitor.finish(ids).frame()
    assert len(frame) == len(monitor.stats()) and {0, 1} == {*frame["sequence"]}
    width = inputs["input_ids"].shape[1]
    for sequence, rows in frame.groupby("sequence"):
        prompt = inputs["input_ids"][sequence][inputs["attention_mask"][sequence] == 1].tolist()
        completion = rows["token_id"].tolist()
        assert completion == ids[sequence, width : width + len(completion)].tolist()
        assert not stops & {*completion[:-1]}  # nothing after an end
        assert len(completion) == 40 or completion[-1] in stops
        text = Text("s", "p", None, None, "", prompt_ids=prompt, completion_ids=completion)
        table = probe(model, [text], tmp_path / f"{sequence}", tokenizer=tokenizer).frame
        for name, column in (("target_logprob", "logprob"), *((n, n) for n in SAME)):
            np.testing.assert_allclose(rows[name], table[column], rtol=1e-4, atol=1e-4)
        assert rows["target_rank"].tolist() == table["rank"].tolist()


def test_nothing_is_changed_and_the_last_token_may_be_unknown(tiny):
    torch.manual_seed(1)
    _, ids = generate(tiny, StatsProcessor())
    torch.manual_seed(1)
    monitor = StatsProcessor(top_k=3)
    _, again = generate(tiny, monitor)
    assert torch.equal(ids, again)
    frame = monitor.finish().frame()
    last = frame[frame["step"] == frame["step"].max()]
    assert (last["token_id"] == -100).all() and (last["target_rank"] == -1).all()
    assert (frame[frame["step"] < frame["step"].max()]["target_rank"] > 0).all()


def test_what_cannot_be_recorded_is_refused(tiny):
    monitor = StatsProcessor()
    with pytest.raises(UserError, match="nothing was recorded"):
        monitor.frame()
    generate(tiny, monitor)
    with pytest.raises(UserError, match="one generate call"):
        generate(tiny, monitor)
    with pytest.raises(UserError, match="beam search"):
        generate(tiny, StatsProcessor(), do_sample=False, temperature=None, top_k=None, num_beams=3)
