"""The loss from hidden states is the model's own, its gradients too, and no [B, L, V] is made."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode

from ssd_probe.core import loss as module
from ssd_probe.core import train as training
from ssd_probe.core.config import TrainConfig
from ssd_probe.core.loss import CompletionLoss, completion_loss
from ssd_probe.core.train import train
from ssd_probe.core.training.batches import IGNORED, collate
from ssd_probe.kernels.head import Head
from tests.models import FAMILIES, tiny_model, tiny_tokenizer
from tests.test_heads import Doubling

ROWS = [(5, 9), (2, 30), (11, 1), (3, 0)]  # tokens of the prompt and the completion of each sample


def batch(rows=ROWS, vocabulary=507):
    torch.manual_seed(0)
    examples = []
    for prompt, completion in rows:
        ids = torch.randint(3, vocabulary, (prompt + completion,)).tolist()
        examples.append({"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:]})
    return collate(examples)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def own(model, inputs):
    loss = model(**inputs, use_cache=False).loss
    return loss.item(), gradients(model, loss)


def ours(model, inputs, **options):
    loss = completion_loss(model, **options)
    given = {key: value for key, value in inputs.items() if key != "labels"}
    with loss.installed():
        value = loss(model(**given, use_cache=False), inputs["labels"])
        return value.item(), gradients(model, value)


def check(model, inputs, tolerance=1e-5):
    want, got = own(model, inputs), ours(model, inputs)
    assert got[0] == pytest.approx(want[0], rel=tolerance)
    assert got[1].keys() == want[1].keys() and want[1]
    for name, gradient in want[1].items():
        largest = gradient.abs().max().item()
        torch.testing.assert_close(
            got[1][name], gradient, rtol=tolerance, atol=tolerance * largest, msg=name
        )


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "LOGITS_BYTES", 4 * 507 * 7)  # seven rows at a time


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_models_own_loss(family, small_chunks):
    model = tiny_model(family)
    if family == "phi":
        torch.nn.init.normal_(model.lm_head.bias)
    check(model, batch())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # of peft
def test_tied_weights_and_adapters(small_chunks):
    check(tiny_model("llama", tie_word_embeddings=True), batch())
    layers = ["q_proj", "lm_head"]
    model = get_peft_model(tiny_model("qwen3"), LoraConfig(r=2, target_modules=layers))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first: the layer would be tried as if there were no adapter
            torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():  # as at the start of a training
        spoiled = [p for n, p in model.named_parameters() if "lora_B" in n and "lm_head" in n]
        kept = [p.clone() for p in spoiled]
        for p in spoiled:
            p.zero_()
    loss = completion_loss(model)
    with torch.no_grad():
        for p, value in zip(spoiled, kept, strict=True):
            p.copy_(value)
    inputs = batch()
    want = own(model, inputs)
    given = {key: value for key, value in inputs.items() if key != "labels"}
    with loss.installed():
        value = loss(model(**given, use_cache=False), inputs["labels"])
        assert value.item() == pytest.approx(want[0], rel=1e-5)
        assert gradients(model, value).keys() == want[1].keys()


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes, in elements."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return made


def test_no_tensor_is_larger_than_a_chunk_of_logits(monkeypatch):
    model, inputs = tiny_model("qwen3", vocab_size=20_011), batch([(100, 300)])
    monkeypatch.setattr(module, "LOGITS_BYTES", 4 * 20_011 * 7)
    with Largest() as seen:
        ours(model, inputs)
    assert seen.elements == max(4 * 400 * 400, 20_011 * 32)  # attention's scores, the weight
    with Largest() as seen:
        own(model, inputs)
    assert seen.elements >= 399 * 20_011  # what the model's own loss makes


def test_a_batch_without_a_scored_token_has_no_gradient_and_no_nan():
    model = tiny_model("llama")
    value, found = ours(model, batch([(4, 0), (2, 0)]))
    assert value == 0 and all(not g.any() for g in found.values())
    assert found.keys() == dict(model.named_parameters()).keys()  # other processes wait for them


def test_the_tokens_of_a_whole_step_are_what_it_is_divided_by():
    model, inputs = tiny_model("llama"), batch()
    given = {key: value for key, value in inputs.items() if key != "labels"}
    loss = completion_loss(model)
    with loss.installed():
        mean = loss(model(**given), inputs["labels"])
        part = loss(model(**given), inputs["labels"], num_items_in_batch=torch.tensor(400))
    assert part.item() == pytest.approx(mean.item() * 40 / 400)  # 9 + 30 + 1 tokens


def test_mixed_precision_is_that_of_the_models_own_loss():
    model, inputs = tiny_model("gemma2"), batch()
    with torch.autocast("cpu", torch.bfloat16):
        want = model(**inputs, use_cache=False).loss.item()
    loss = completion_loss(model, torch.bfloat16)
    given = {key: value for key, value in inputs.items() if key != "labels"}
    with loss.installed():
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(**given, use_cache=False)
        got = loss(outputs, inputs["labels"]).item()
    assert got == pytest.approx(want, rel=1e-2)


def test_the_models_own_loss_where_the_layer_is_unknown_or_a_router_has_one():
    unknown = tiny_model("qwen3")
    unknown.lm_head = Doubling(32, 507, bias=False)
    router = tiny_model("qwen3_moe")
    router.config.output_router_logits = True
    assert completion_loss(unknown) is None and completion_loss(router) is None


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_layer_is_itself_again_whatever_happens(wrapped):
    model = tiny_model("llama")
    if wrapped:  # as accelerate does where a model is spread over devices
        forward = model.lm_head.forward
        model.lm_head.forward = lambda hidden: 2 * forward(hidden)
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    loss = CompletionLoss(model, Head(model.lm_head.weight))
    with pytest.raises(RuntimeError, match="stop"), loss.installed():
        assert model(ids).logits.shape == (1, 3, 1)
        raise RuntimeError("stop")
    assert model(ids).logits.equal(before)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_training_is_that_with_the_models_own_loss(tmp_path, monkeypatch, accumulation):
    torch.manual_seed(0)
    rows = [
        {"prompt_ids": torch.randint(3, 500, (p,)).tolist(),
         "completion_ids": torch.randint(3, 500, (c,)).tolist()}
        for p, c in [(4, 9), (30, 2), (2, 40), (7, 7), (1, 1), (12, 20)]
    ]  # fmt: skip
    config = TrainConfig(
        learning_rate=1e-3, max_steps=10, batch_size=2, gradient_accumulation=accumulation
    )
    found, weights = [], []
    for name in ("ours", "own"):
        if name == "own":
            monkeypatch.setattr(training, "completion_loss", lambda *_: None)
        model = tiny_model("llama")
        found.append(train(model, tiny_tokenizer(), rows, config, tmp_path / name)[-1])
        weights.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-5)
    assert found[0]["grad_norm"] == pytest.approx(found[1]["grad_norm"], rel=1e-4)
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-5)
