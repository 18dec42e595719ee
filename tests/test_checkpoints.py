"""Loading models: the good path of three architectures, and every broken directory we know."""

import json
import shutil
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssd_probe.errors import UserError
from ssd_probe.models import checkpoints
from ssd_probe.models.checkpoints import (
    bundled_checkpoint,
    load_model,
    load_tokenizer,
    resolve_model,
)
from ssd_probe.models.identity import (
    Checkpoint,
    model_identity,
    tokenizer_identity,
    vocabulary_digest,
)
from ssd_probe.models.tokens import render_prompt
from ssd_probe.problems.prompts import Prompt
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


def changed_parts(first, second):
    assert first.keys() == second.keys()
    return {name for name in first if first[name] != second[name]}


def edit(file, **changes):
    """Rewrite a JSON file: some values, and the order of its keys."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(dict(reversed(content.items()))))


def _other_weights(path):
    save_file(
        {name: t + 1 for name, t in load_file(path / "model.safetensors").items()},
        path / "model.safetensors",
        metadata={"format": "pt"},
    )


def _shards(path):
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"x-1.safetensors": names[::2], "x-2.safetensors": names[1::2]}
    for file, held in files.items():
        save_file({n: tensors[n] for n in held}, path / file, metadata={"by": "me"})
    index = {name: file for file, held in files.items() for name in held}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def _other_merges(path):
    """Fewer merges: the same tokens and ids, other ids of a text."""
    content = json.loads((path / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:20]
    (path / "tokenizer.json").write_text(json.dumps(content))


def _other_template(path):
    (path / "chat_template.jinja").write_text("{{ messages[0].content }}")


def _older_name_of_dtype(path):
    content = json.loads((path / "config.json").read_text())
    content["torch_dtype"] = content.pop("dtype")
    (path / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (_other_weights, {"weights"}),
        (lambda path: edit(path / "config.json", rms_norm_eps=0.5), {"config"}),
        (lambda path: edit(path / "generation_config.json", eos_token_id=[1, 2]), {"generation"}),
        (lambda path: edit(path / "generation_config.json", top_k=3), {"generation"}),
        (lambda path: (path / "generation_config.json").unlink(), {"generation"}),
        (_other_merges, {"tokenizer"}),
        (
            lambda path: edit(path / "tokenizer.json", normalizer={"type": "Lowercase"}),
            {"tokenizer"},
        ),
        (lambda path: edit(path / "tokenizer_config.json", eos_token="<think>"), {"tokenizer"}),
        (_other_template, {"template"}),
        (_shards, set()),
        (lambda path: edit(path / "config.json", transformers_version="4"), set()),
        (lambda path: edit(path / "config.json", _name_or_path="x"), set()),
        (lambda path: edit(path / "config.json", use_cache=False), set()),
        (_older_name_of_dtype, set()),
        (lambda path: edit(path / "generation_config.json", transformers_version=""), set()),
        (lambda path: edit(path / "tokenizer.json"), set()),
        (lambda path: (path / "README.md").write_text("x"), set()),
    ],
)  # fmt: skip
def test_the_identity_is_the_content_and_says_which_part_changed(good, copy, change, parts):
    before = Checkpoint(str(good)).identity
    assert all(len(part) == 64 for part in before.values())
    assert set(before) == {"weights", "config", "generation", "tokenizer", "template"}
    change(copy)
    assert changed_parts(before, Checkpoint(str(copy)).identity) == parts


def test_a_model_in_memory_is_its_weights_config_and_generation():
    before = model_identity(tiny_model("qwen3"))
    assert model_identity(tiny_model("qwen3")) == before
    other = tiny_model("qwen3")
    other.config.rms_norm_eps = 0.5
    assert changed_parts(before, model_identity(other)) == {"config"}
    other = tiny_model("qwen3")
    other.generation_config.repetition_penalty = 2.0
    assert changed_parts(before, model_identity(other)) == {"generation"}
    assert changed_parts(before, model_identity(tiny_model("qwen3", seed=1))) == {"weights"}


def test_a_tokenizer_is_the_same_from_disk_in_memory_and_after_use(good):
    tokenizer = load_tokenizer(good)
    before = tokenizer_identity(tokenizer)
    assert before == tokenizer_identity(tiny_tokenizer())
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert tokenizer_identity(tokenizer) == before
    tokenizer.split_special_tokens = True  # in the text they are then letters
    assert changed_parts(before, tokenizer_identity(tokenizer)) == {"tokenizer"}
    tokenizer.split_special_tokens = False
    tokenizer.add_tokens(["<new>"])
    assert changed_parts(before, tokenizer_identity(tokenizer)) == {"tokenizer"}


def test_a_tokenizer_without_the_library_is_its_files_and_tokens(tmp_path):
    class Plain:
        special_tokens_map, chat_template = {}, None

        def __init__(self, text):
            self.text = text

        def get_vocab(self):
            return {"a": 0}

        def save_vocabulary(self, folder):
            (Path(folder) / "merges").write_text(self.text)
            return (str(Path(folder) / "merges"),)

    before = tokenizer_identity(Plain("x"))
    assert before == tokenizer_identity(Plain("x")) and before["template"] is None
    assert changed_parts(before, tokenizer_identity(Plain("y"))) == {"tokenizer"}


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


def _lfs_config(path):
    (path / "config.json").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")


def _lfs_tokenizer(path):
    (path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")


def _header(text):
    """A safetensors file whose header is this."""

    def damage(path):
        content = len(text).to_bytes(8, "little") + text.encode()
        (path / "model.safetensors").write_bytes(content)

    return damage


def _index(text):
    """Shards with this index."""

    def damage(path):
        (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
        (path / "model.safetensors.index.json").write_text(text)

    return damage


def _truncated_shard(path):
    _missing_shard(path)
    whole = (path / "model-00001-of-00002.safetensors").read_bytes()
    (path / "model-00002-of-00002.safetensors").write_bytes(whole[: len(whole) // 2])


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
        (_header("[" * 10000), "truncated or damaged"),
        (_header('{"a": {"data_offsets": [0]}}'), "truncated or damaged"),
        (_header('{"a": {"data_offsets": [0, "1"]}}'), "truncated or damaged"),
        (_lfs_pointer, "git-LFS pointer"),
        (_lfs_config, "git-LFS pointer"),
        (_index("{"), "not a JSON object"),
        (_index('{"weight_map": []}'), "no weight_map of file names"),
        (_index('{"weight_map": {"a": 1}}'), "no weight_map of file names"),
        (_truncated_shard, r"model-00002-of-00002\.safetensors: truncated or damaged"),
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
        (_lfs_tokenizer, "git-LFS pointer"),
        (lambda path: (path / "tokenizer.json").unlink(), "no tokenizer here"),
        (lambda path: (path / "tokenizer.json").write_text("{"), "tokenizer cannot be loaded"),
        (lambda path: (path / "config.json").unlink(), r"no config\.json"),
    ],
)
def test_damaged_tokenizers(copy, damage, message):
    damage(copy)
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(copy)
    assert "\n" not in str(caught.value)


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
    with pytest.raises(UserError, match="revision 'main' is for hub ids"):
        load_model(good, revision="main")
    with pytest.raises(UserError, match="use_safetensors: not an option .* that can be set here"):
        load_model(good, use_safetensors=False)
    with pytest.raises(UserError, match="the model cannot be loaded .*colour") as caught:
        load_model(good, device="cpu", colour=1)
    assert "\n" not in str(caught.value)


def test_further_settings_reach_from_pretrained(good):
    model = load_model(good, device="cpu", max_position_embeddings=64)
    assert model.config.max_position_embeddings == 64


def test_a_hub_id_is_known_by_its_cached_commit(good, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    for name, commit in (("main", "a" * 40), ("v1", "b" * 40)):
        (repository / "refs" / name).write_text(commit)
        shutil.copytree(good, repository / "snapshots" / commit)
    assert model_identity("some/model") == {"commit": "a" * 40}
    assert model_identity("some/model", "v1") == {"commit": "b" * 40}
    assert load_model("some/model", device="cpu", revision="v1").config.hidden_size == 32
    assert load_tokenizer("some/model", "v1")("x").input_ids
    with pytest.raises(UserError, match="no such model"):
        model_identity("some/model", "v2")
    with pytest.raises(UserError, match="no such model"):
        load_model("some/model", device="cpu", revision="v2")


def save_adapter(model, config, path):
    """An adapter of a loaded model; peft warns of things to come."""
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft.get_peft_model(load_model(model, device="cpu"), config(peft)).save_pretrained(path)
    return path


def lora(peft):
    return peft.LoraConfig(
        r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM"
    )


@pytest.fixture
def adapter(good, tmp_path):
    """A random LoRA adapter of the good checkpoint, also on its output layer."""
    torch.manual_seed(0)
    return save_adapter(good, lora, tmp_path / "lora")


def _edit_adapter(path, **changes):
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.filterwarnings("ignore")  # peft's, about things to come
def test_an_adapter_is_its_base_model_with_the_adapter_in_place(good, adapter):
    from peft import PeftModel

    base = load_model(good, device="cpu")
    model = load_model(adapter, device="cpu")
    assert type(model) is type(base) and not model.training
    ids = torch.arange(20)[None]
    with torch.no_grad():
        plain, adapted = base(ids).logits, model(ids).logits
        expected = PeftModel.from_pretrained(base, adapter).merge_and_unload()(ids).logits
    assert (adapted - plain).abs().max() > 0.01
    torch.testing.assert_close(adapted, expected, atol=1e-5, rtol=1e-5)
    assert load_tokenizer(adapter)("x = 1").input_ids == tiny_tokenizer()("x = 1").input_ids
    tiny_tokenizer().save_pretrained(adapter)
    assert load_tokenizer(adapter)("x = 1").input_ids == tiny_tokenizer()("x = 1").input_ids


def test_identity_of_an_adapter_follows_weights_settings_and_base(good, adapter, tmp_path):
    seen = [model_identity(good), model_identity(adapter)]
    moved = shutil.copytree(good, tmp_path / "moved")
    _edit_adapter(adapter, base_model_name_or_path=str(moved))
    assert model_identity(adapter) == seen[1]
    _edit_adapter(adapter, lora_alpha=99)
    seen.append(model_identity(adapter))
    _edit_adapter(adapter, base_model_name_or_path=str(save(tmp_path / "other", seed=1)))
    seen.append(model_identity(adapter))
    tensors = load_file(adapter / "adapter_model.safetensors")
    changed = {name: tensor + 1 for name, tensor in tensors.items()}
    save_file(changed, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    seen.append(model_identity(adapter))
    assert [changed_parts(*pair) for pair in pairwise(seen[1:])] == [
        {"adapter"}, {"weights"}, {"adapter"}
    ]  # fmt: skip
    assert changed_parts(seen[0] | {"adapter": None}, seen[1]) == {"adapter"}
    _edit_adapter(adapter, peft_version="0")
    assert model_identity(adapter) == seen[-1]


def _part_of_an_adapter(path):
    tensors = load_file(path / "adapter_model.safetensors")
    tensors.popitem()
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: _edit_adapter(path, base_model_name_or_path=None), "no base_model_name"),
        (
            lambda path: _edit_adapter(path, base_model_name_or_path="/no"),
            "base model is not there",
        ),
        (lambda path: _edit_adapter(path, base_model_name_or_path=str(path)), "an adapter too"),
        (lambda path: _edit_adapter(path, peft_type="NO"), "the adapter cannot be loaded"),
        (lambda path: _edit_adapter(path, new=3), "Unexpected keyword arguments"),
        (lambda path: _edit_adapter(path, r=3), "the adapter cannot be loaded"),
        (lambda path: (path / "adapter_config.json").write_text("["), "not a JSON object"),
        (lambda path: (path / "adapter_model.safetensors").unlink(), "no adapter_model.safet"),
        (lambda path: (path / "model.safetensors").write_bytes(b""), "both adapter_config.json"),
        (_part_of_an_adapter, "the adapter cannot be loaded .*missing adapter keys"),
        (
            lambda path: (path / "adapter_model.safetensors").write_bytes(b"1"),
            "truncated or damaged",
        ),
        (lambda path: sys.modules.update({"peft": None}), "peft is missing; pip install peft"),
    ],
)
def test_damaged_adapters(adapter, damage, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", sys.modules["peft"])  # put back afterwards
    damage(adapter)
    with pytest.raises(UserError, match=message) as caught:
        load_model(adapter, device="cpu")
    assert "\n" not in str(caught.value)


def test_soft_prompts_are_refused(good, tmp_path):
    def soft(peft):
        return peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)

    save_adapter(good, soft, tmp_path / "soft")
    with pytest.raises(UserError, match="soft prompts are not supported"):
        load_model(tmp_path / "soft", device="cpu")


def test_tiny_is_the_bundled_checkpoint(monkeypatch, tmp_path):
    elsewhere = str(tmp_path / "models" / "checkpoints.py")
    monkeypatch.setattr("ssd_probe.models.checkpoints.__file__", elsewhere)
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


def test_each_rank_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert checkpoints._device(None) == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert checkpoints._device(None) == "cuda:3"
    assert checkpoints._device("auto") == "auto"
