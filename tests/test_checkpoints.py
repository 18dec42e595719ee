"""Loading models: the good path of three architectures, and every broken directory we know."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssd_probe.checkpoints import (
    bundled_checkpoint,
    load_model,
    load_tokenizer,
    render_prompt,
    resolve_model,
    vocabulary_digest,
    weights_sha256,
)
from ssd_probe.data import Prompt
from ssd_probe.errors import UserError
from tests.models import ARCHITECTURES, CHATML, save, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return save(tmp_path_factory.mktemp("good"))


@pytest.fixture
def copy(good, tmp_path):
    """A checkpoint a test may damage."""
    return shutil.copytree(good, tmp_path / "copy")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_load_gives_the_saved_model_in_eval_mode(tmp_path, architecture):
    save(tmp_path, architecture)
    model = load_model(tmp_path, device="cpu", attn="eager")
    assert not model.training and model.dtype == torch.float32
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, tiny_model(architecture)(ids).logits)
    assert load_tokenizer(tmp_path)("x = 1").input_ids == tiny_tokenizer()("x = 1").input_ids


def test_dtype_is_converted(good):
    assert load_model(good, dtype="bfloat16", device="cpu").dtype == torch.bfloat16


def test_weights_sha256_follows_the_weights(good, tmp_path):
    assert weights_sha256(good) == weights_sha256(save(tmp_path / "same"))
    assert weights_sha256(good) != weights_sha256(save(tmp_path / "other", seed=1))


def test_vocabulary_digest_follows_tokens_and_ids(good):
    tokenizer = load_tokenizer(good)
    digest = vocabulary_digest(tokenizer)
    assert digest == vocabulary_digest(tiny_tokenizer()) and len(digest) == 64
    tokenizer.chat_template = None
    assert vocabulary_digest(tokenizer) == digest
    tokenizer.add_tokens(["<new>"])
    assert vocabulary_digest(tokenizer) != digest


def _truncate(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _header_only(path):
    (path / "model.safetensors").write_bytes(b"\xff\xff\xff\x00\x00\x00\x00\x00{}")


def _lfs_pointer(path):
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")


def _only_bin(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def _missing_shard(path):
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def _missing_tensors(path):
    tensors = load_file(path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def _other_shapes(path):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 50}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "truncated or damaged"),
        (_header_only, "truncated or damaged"),
        (_lfs_pointer, "git-LFS pointer"),
        (_only_bin, r"only \.bin weights"),
        (_missing_shard, "1 of 2 shards are missing, as model-00002"),
        (_missing_tensors, "1 weights are missing or misshapen, as model.norm.weight"),
        (_other_shapes, "copy: "),
        (lambda path: (path / "model.safetensors").unlink(), "no weights"),
        (lambda path: (path / "model.safetensors").write_bytes(b""), "truncated or damaged"),
        (lambda path: (path / "config.json").unlink(), r"no config\.json"),
        (lambda path: (path / "config.json").write_text("{"), "not a JSON object"),
        (lambda path: (path / "config.json").write_text('{"model_type": "?"}'), "cannot be loaded"),
    ],
)
def test_damaged_model_directories(copy, damage, message):
    damage(copy)
    with pytest.raises(UserError, match=message) as caught:
        load_model(copy, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "tokenizer.json").unlink(), "no tokenizer here"),
        (lambda path: (path / "tokenizer.json").write_text("{"), "tokenizer cannot be loaded"),
        (lambda path: (path / "config.json").unlink(), r"no config\.json"),
    ],
)
def test_damaged_tokenizers(copy, damage, message):
    damage(copy)
    with pytest.raises(UserError, match=message):
        load_tokenizer(copy)


def test_names_that_lead_nowhere(tmp_path, good):
    for name in (tmp_path / "x", "./nowhere", "/nowhere", "a/b/c"):
        with pytest.raises(UserError, match="no such directory"):
            resolve_model(name)
    with pytest.raises(UserError, match="is a file"):
        resolve_model(good / "config.json")
    with pytest.raises(UserError, match="empty"):
        resolve_model("")
    with pytest.raises(UserError, match=r"no-one/nothing: no such model.*cache"):
        load_model("no-one/nothing")
    with pytest.raises(UserError, match="no such tokenizer"):
        load_tokenizer("no-one/nothing")


def test_bad_settings(good):
    with pytest.raises(UserError, match="dtype 'int3': choose one of auto"):
        load_model(good, dtype="int3")
    with pytest.raises(UserError, match="device 'gpu'"):
        load_model(good, device="gpu")


def test_tiny_is_the_bundled_checkpoint(monkeypatch, tmp_path):
    monkeypatch.setattr("ssd_probe.checkpoints.__file__", str(tmp_path / "checkpoints.py"))
    with pytest.raises(UserError, match="make tiny"):
        bundled_checkpoint()
    (tmp_path / "tiny" / "checkpoint").mkdir(parents=True)
    (tmp_path / "tiny" / "checkpoint" / "config.json").write_text("{}")
    assert resolve_model("tiny") == bundled_checkpoint() == tmp_path / "tiny" / "checkpoint"


def test_prompts_are_rendered_by_the_chat_template():
    tokenizer = tiny_tokenizer()
    prompt = Prompt("p", [{"role": "user", "content": "hi"}], None)
    rendered = tokenizer.decode(render_prompt(tokenizer, prompt))
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    plain = render_prompt(tokenizer, Prompt("p", None, "def f"))
    assert tokenizer.decode(plain) == "def f"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('no') }}", "refuses these messages"),
        ("{{", "refuses"),
    ],
)
def test_templates_that_fail(template, message):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    try:
        with pytest.raises(UserError, match=message):
            render_prompt(tokenizer, Prompt("p", [{"role": "user", "content": "hi"}], None))
    finally:
        tokenizer.chat_template = CHATML
