"""Every family's output layer: a probe gives the statistics of the model's own logits."""

import pytest
import torch

from ssd_probe.kernels import reference
from ssd_probe.models.heads import read_head
from ssd_probe.probing.forward import Encoded, Scorer
from ssd_probe.problems.texts import Text
from tests.models import FAMILIES, tiny_model

FIELDS = ("log_partition", "entropy", "varentropy", "tail_log_mass", "target_logprob")
LENGTHS = (40, 23, 7)


def encoded(vocabulary: int = 507) -> list[Encoded]:
    text = Text("s", "s", None, None, "")
    ids = [torch.randint(0, vocabulary, (length,)).tolist() for length in LENGTHS]
    return [Encoded(text, i, 3, 3, len(i)) for i in ids]


def check(model, **options):
    """`Scorer`, batch by batch, against float64 statistics of each sequence's own logits."""
    sequences = encoded()
    scorer = Scorer(model, top_k=8, **options)
    for batch in scorer.batches(sequences):
        chosen = [sequences[i] for i in batch]
        for sequence, got in zip(chosen, scorer.score_batch(chosen), strict=True):
            compare(model, sequence, got)


def compare(model, sequence, got):
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([sequence.ids])).logits[0]
    targets = torch.tensor(sequence.ids[sequence.begin :])
    scored = logits[sequence.begin - 1 : -1].double()
    want = reference.position_stats(scored, top_k=8, targets=targets)
    for field in FIELDS:
        values = torch.from_numpy(got[field]).double()
        torch.testing.assert_close(values, getattr(want, field), rtol=1e-4, atol=2e-5)
    assert (torch.from_numpy(got["top_ids"]) != want.top_ids).float().mean() < 0.01  # near ties


@pytest.mark.parametrize("family", FAMILIES)
def test_a_probe_is_what_the_models_own_logits_give(family):
    model = tiny_model(family)
    if family == "phi":
        torch.nn.init.normal_(model.lm_head.bias)
    assert read_head(model) is not None
    check(model)


@pytest.mark.parametrize("family", ["gemma2", "phi", "unknown"])
def test_mass_on_rows_that_are_no_tokens(family):
    model = tiny_model("qwen3" if family == "unknown" else family)
    if family == "unknown":
        model.lm_head = Doubling(32, 507, bias=False)
    sequence = encoded()[0]
    (got,) = Scorer(model, top_k=8, tokens=400, rows_per_chunk=7).score_batch([sequence])
    with torch.inference_mode():
        p = model(input_ids=torch.tensor([sequence.ids])).logits[0, 2:-1].double().softmax(-1)
    want = p[:, 400:].sum(-1).float()
    torch.testing.assert_close(torch.from_numpy(got["padding_mass"]), want, rtol=1e-4, atol=1e-7)
    (none,) = Scorer(model, top_k=8).score_batch([sequence])
    assert (none["padding_mass"] == 0).all()


def test_what_is_read():
    assert read_head(tiny_model("granite")).scale == 1 / 8
    assert read_head(tiny_model("cohere")).scale == 0.25
    assert read_head(tiny_model("gemma2")).softcap == 3.0
    assert read_head(tiny_model("phi")).bias is not None
    llama = tiny_model("llama")
    assert read_head(llama).weight.data_ptr() == llama.get_input_embeddings().weight.data_ptr()


class Doubling(torch.nn.Linear):
    """An output layer that no table of names knows."""

    def forward(self, hidden):
        return super().forward(hidden) * torch.linspace(0.5, 2, self.out_features)


def test_an_unknown_layer_falls_back_to_the_models_logits_and_says_so(capsys):
    model = tiny_model("qwen3")
    model.lm_head = Doubling(32, 507, bias=False)
    check(model, rows_per_chunk=7)
    assert capsys.readouterr().err.count("unknown output layer") == 1


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's use of it
@pytest.mark.parametrize("adapted", [["q_proj", "v_proj"], ["q_proj", "lm_head"]])
def test_a_peft_adapter(adapted, capsys):
    """Within the layers it is read through; on the output layer the model makes the logits."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=adapted, init_lora_weights=False)
    model = peft.get_peft_model(tiny_model("qwen3"), config).eval()
    check(model)
    assert ("unknown output layer" in capsys.readouterr().err) == ("lm_head" in adapted)
