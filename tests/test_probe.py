"""Probing: teacher forcing against plain float64, what is scored, and the folder on disk."""

import copy
import json
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import ssd_probe.probing.probe as module
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files import parts
from ssd_probe.kernels import reference
from ssd_probe.probing import table
from ssd_probe.probing.probe import Probe, ProbeConfig, probe
from ssd_probe.probing.table import require_comparable
from ssd_probe.problems.texts import Text, read_texts
from tests.models import ARCHITECTURES, save, tiny_model, tiny_tokenizer

COLUMNS = [
    *("sample_id", "problem_id", "position", "token_id", "token", "segment", "syntax"),
    *("logprob", "rank", "max_logit", "log_partition", "entropy", "varentropy"),
    *("tail_log_mass", "padding_mass", "top_ids", "top_logits", "valid"),
]
CHAT = [{"role": "user", "content": "Add."}]
OPTIONS = {"top_k": 8, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def texts():
    """Two samples and the starts of two standard-library files, of different lengths."""
    source = Path(textwrap.__file__).read_text()
    return [
        Text("s/0", "s", CHAT, None, "```python\nx = 1\n```"),
        Text("s/1", "s", None, "def f():\n", "", [1, 6, 9], [11, 10, 2]),
        Text("a.py", "a.py", None, None, source[:300], kind="source", path="a.py"),
        Text("b.py", "b.py", None, None, source[4000:4200], kind="source", path="b.py"),
    ]


def run(model, texts, **options):
    return probe(model, texts, tokenizer=tiny_tokenizer(), **OPTIONS | options)


def assert_same(left: pd.DataFrame, right: pd.DataFrame, atol=1e-5):
    assert list(left.columns) == list(right.columns) == COLUMNS
    for name in COLUMNS:
        if left[name].dtype == np.float32:
            np.testing.assert_allclose(left[name], right[name], rtol=1e-5, atol=atol, err_msg=name)
        elif name.startswith("top_"):
            stacked = np.stack(left[name]), np.stack(right[name])
            np.testing.assert_allclose(*stacked, rtol=1e-5, atol=atol, err_msg=name)
        else:
            assert left[name].tolist() == right[name].tolist(), name


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2"])
def test_rows_are_the_float64_distributions(architecture, texts):
    """Teacher forcing in batches equals one plain forward pass a text, in float64."""
    model = tiny_model(architecture)
    frame = run(model, texts, include_prompt=True, batch_size=3, rows_per_chunk=50)
    exact = copy.deepcopy(model).double()
    assert list(dict.fromkeys(frame["sample_id"])) == [text.sample_id for text in texts]
    for _, rows in frame.groupby("sample_id", sort=False):
        ids = torch.tensor([[0, *rows["token_id"]]])
        if rows["sample_id"].iloc[0] == "s/1":
            ids[0, 0] = 1
        elif rows["sample_id"].iloc[0] == "s/0":
            ids[0, 0] = tiny_tokenizer().convert_tokens_to_ids("<|im_start|>")
        else:
            text = next(t for t in texts if t.sample_id == rows["sample_id"].iloc[0])
            ids[0, 0] = tiny_tokenizer()(text.completion).input_ids[0]
        with torch.no_grad():
            logits = exact(ids).logits[0, :-1]
        expected = reference.position_stats(logits, top_k=8, targets=ids[0, 1:])
        assert rows["position"].tolist() == list(range(1, ids.shape[1]))
        padding = logits.softmax(-1)[:, max(tiny_tokenizer().get_vocab().values()) + 1 :]
        expected.padding_mass = padding.sum(-1)
        for name, field in table.SCALARS.items():
            want = getattr(expected, field).numpy()
            np.testing.assert_allclose(rows[name], want, rtol=1e-4, atol=1e-4, err_msg=name)
        assert np.array_equal(np.stack(rows["top_ids"]), expected.top_ids.numpy())
    assert frame["valid"].all()


def test_an_unknown_output_layer_gives_the_same_table(texts, monkeypatch):
    model = tiny_model("qwen3")
    fast = run(model, texts)
    monkeypatch.setattr("ssd_probe.probing.forward.read_head", lambda model: None)
    assert_same(fast, run(model, texts, rows_per_chunk=7))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_neighbours_and_padding_change_nothing(architecture, texts):
    model = tiny_model(architecture)
    together = run(model, texts, batch_size=4)
    alone = pd.concat([run(model, [text], rows_per_chunk=3) for text in texts])
    assert_same(together, alone)
    backwards = run(model, texts[::-1], batch_size=2)
    order = [rows for _, rows in backwards.groupby("sample_id", sort=False)][::-1]
    assert_same(together, pd.concat(order))


def test_long_texts_are_batched_less(texts, monkeypatch):
    model = tiny_model("qwen3")
    together = run(model, texts, batch_size=4)
    monkeypatch.setattr("ssd_probe.probing.forward.MAX_BATCH_TOKENS", 50)
    assert_same(together, run(model, texts, batch_size=4))


def test_padding_to_the_left_changes_nothing(texts):
    model = tiny_model("qwen3")
    frame = run(model, texts[1:2], include_prompt=True)
    ids = torch.tensor([[0, 0, 0, 1, *frame["token_id"]]])
    mask = torch.tensor([[0] * 3 + [1] * (ids.shape[1] - 3)])
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, position_ids=places).logits[0, 3:-1]
    want = logits.log_softmax(-1).gather(-1, ids[0, 4:, None])[:, 0]
    np.testing.assert_allclose(frame["logprob"], want, rtol=1e-5, atol=1e-5)


def test_what_is_scored(texts):
    frame = run(tiny_model("llama"), texts)
    sample = frame[frame["sample_id"] == "s/1"]
    assert sample["token_id"].tolist() == [11, 10, 2]  # saved ids win over the text
    assert sample["position"].tolist() == [3, 4, 5]
    assert sample["segment"].tolist() == ["text", "text", "special"]
    first = frame[frame["sample_id"] == "s/0"]
    assert "".join(first["token"]) == texts[0].completion
    assert set(first["segment"]) == {"text", "code"}
    source = frame[frame["sample_id"] == "a.py"]
    assert source["position"].iloc[0] == 1 and set(source["segment"]) == {"code"}
    assert set(run(tiny_model("llama"), texts, include_prompt=True)["segment"]) > {"prompt"}


def test_long_texts_are_cut_and_counted(texts, capsys):
    model = tiny_model("qwen3", max_position_embeddings=60)
    frame = run(model, texts)
    assert frame.attrs["truncated"] == 2
    assert "2 of 4 texts are longer than 60 tokens" in capsys.readouterr().err
    assert frame["position"].max() == 59
    assert run(model, texts, max_length=20)["position"].max() == 19
    whole = Text("w", "w", None, None, "def f(x):\n    return x\n", kind="source", path="w.py")
    cut = run(model, [whole], max_length=4)
    assert "FunctionDef" in set(cut["syntax"])  # labels come from the whole text


def test_a_training_model_is_probed_without_dropout_and_left_training(texts):
    model = tiny_model("qwen3", attention_dropout=0.5)
    expected = run(model, texts)
    model.train()
    assert_same(run(model, texts), expected)
    assert model.training


def test_logits_that_are_not_numbers_are_marked(texts):
    model = tiny_model("qwen3")
    with torch.no_grad():
        model.lm_head.weight[3, 0] = torch.nan
    frame = run(model, texts[:1])
    assert not frame["valid"].any() and frame["entropy"].isna().all()


def test_folder_round_trip_and_reuse(checkpoint, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "TEXTS_PER_PART", 3)
    done = probe(checkpoint, texts, tmp_path / "p", **OPTIONS)
    assert_same(done.frame, probe(checkpoint, texts, **OPTIONS), atol=0)
    assert len(done) == len(done.frame) and done.record["truncated"] == 0
    assert sorted(f.name for f in (tmp_path / "p").iterdir()) == [
        ".lock", ".lock-record", "part-00000.json", "part-00000.parquet", "part-00001.json",
        "part-00001.parquet", "probe.json",
    ]  # fmt: skip
    schema = pq.read_schema(tmp_path / "p" / "part-00000.parquet")
    assert schema.metadata[b"ssd_probe.schema"] == table.SCHEMA_VERSION.encode()

    loaded = Probe.load(tmp_path / "p", columns=["entropy"])
    assert list(loaded.frame.columns) == ["entropy"]
    assert list(loaded.columns(["rank", "token"]).columns) == ["rank", "token"]
    stats = loaded.stats()
    assert len(stats) == len(loaded) and stats.top_ids.shape == (len(loaded), 8)
    assert (stats.support_size(Decoding(top_k=3)) >= 3).all()
    np.testing.assert_array_equal(stats.entropy, loaded.frame["entropy"])

    monkeypatch.setattr(module, "load_model", None)  # reuse needs no model
    again = probe(checkpoint, texts, tmp_path / "p", **OPTIONS)
    assert again.record == done.record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 9}, "top_k: 8 -> 9"),
        ({"max_length": 99}, "max_length: None -> 99"),
        ({"include_prompt": True}, "include_prompt: False -> True"),
        ({"dtype": "bfloat16"}, "dtype: auto -> bfloat16"),
        ({"texts": 1}, "texts: [0-9a-f]{64} -> "),
        ({"model": 1}, r"model\.weights: [0-9a-f]{64} -> "),
    ],
)
def test_changed_settings_are_refused(checkpoint, texts, tmp_path, change, message):
    probe(checkpoint, texts[:2], tmp_path / "p", **OPTIONS)
    model = save(tmp_path / "m", seed=1) if change.pop("model", 0) else checkpoint
    probed = texts[:1] if change.pop("texts", 0) else texts[:2]
    with pytest.raises(UserError, match=message):
        probe(model, probed, tmp_path / "p", **OPTIONS | change)


def test_a_model_in_memory_is_told_apart_by_its_weights(texts, tmp_path):
    run(tiny_model("qwen3"), texts[:1], out=tmp_path / "p")
    run(tiny_model("qwen3"), texts[:1], out=tmp_path / "p")
    with pytest.raises(UserError, match="weights: "):
        run(tiny_model("qwen3", seed=1), texts[:1], out=tmp_path / "p")


def test_a_tokenizer_beside_a_model_is_part_of_what_was_probed(texts, tmp_path):
    model, tokenizer = tiny_model("qwen3"), copy.deepcopy(tiny_tokenizer())
    probe(model, texts[1:2], tmp_path / "p", tokenizer=tokenizer, **OPTIONS)
    tokenizer.chat_template = "other"
    with pytest.raises(UserError, match=r"model\.template: "):
        probe(model, texts[1:2], tmp_path / "p", tokenizer=tokenizer, **OPTIONS)
    model.config.rms_norm_eps = 0.5
    with pytest.raises(UserError, match=r"model\.config: "):
        probe(model, texts[1:2], tmp_path / "p", tokenizer=tiny_tokenizer(), **OPTIONS)


def test_texts_are_their_content_not_their_file(texts, tmp_path):
    def again(**changes):
        changed = [replace(texts[1], **changes)]
        return run(tiny_model("qwen3"), changed, out=tmp_path / "p", include_prompt=True)

    done = again(path="here/s.jsonl")
    assert again(path="there/t.jsonl").record == done.record
    with pytest.raises(UserError, match="texts: "):  # the same ids, but more of them the prompt's
        again(prompt_ids=[1, 6, 9, 11], completion_ids=[10, 2])


def test_the_record_names_the_device_used(checkpoint, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    done = probe(checkpoint, texts[1:2], tmp_path / "p", **OPTIONS | {"backend": "torch"})
    assert done.record["device"] == "cpu"


def test_a_folder_of_an_older_version_opens_and_is_not_gone_on_with(checkpoint, texts, tmp_path):
    done = probe(checkpoint, texts[1:2], tmp_path / "p", **OPTIONS)
    record = json.loads((tmp_path / "p" / "probe.json").read_text())
    del record["format"]
    settings = record["settings"]
    settings["weights"] = settings.pop("model")["weights"]
    settings["tokenizer"] = record["tokenizer"]
    (tmp_path / "p" / "probe.json").write_text(json.dumps(record))
    old = Probe.load(tmp_path / "p")
    assert_same(old.frame, done.frame, atol=0)
    require_comparable(old, done)
    with pytest.raises(UserError, match="format: None -> 2; it can be read"):
        probe(checkpoint, texts[1:2], tmp_path / "p", **OPTIONS)


def test_a_config_and_shortcuts_are_the_same_settings(texts):
    config = ProbeConfig(top_k=8, include_prompt=True)
    model = tiny_model("qwen3")
    given = probe(model, texts[:2], config=config, tokenizer=tiny_tokenizer(), progress=False)
    assert_same(given, run(model, texts[:2], include_prompt=True), atol=0)
    with pytest.raises(TypeError, match="topk"):
        run(model, texts[:2], topk=3)
    assert config.recorded() == {
        "top_k": 8, "max_length": None, "too_long": "truncate", "include_prompt": True,
        "dtype": "auto", "attn": None, "fp32_head": False, "model_kwargs": {},
    }  # fmt: skip


def _flip_a_byte(path):
    content = bytearray((path / "part-00000.parquet").read_bytes())
    content[len(content) // 3] ^= 255
    (path / "part-00000.parquet").write_bytes(content)


def _other_schema(path):
    record = json.loads((path / "probe.json").read_text())
    record["settings"]["schema"] = "0"
    (path / "probe.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip_a_byte, "missing or damaged"),
        (_other_schema, "another schema version"),
        (lambda path: (path / "part-00000.parquet").unlink(), "missing or damaged"),
        (lambda path: (path / "probe.json").unlink(), r"no probe\.json"),
        (lambda path: (path / "probe.json").write_text("{"), "damaged"),
    ],
)
def test_damaged_folders(checkpoint, texts, tmp_path, damage, message):
    probe(checkpoint, texts[:2], tmp_path / "p", **OPTIONS)
    damage(tmp_path / "p")
    with pytest.raises(UserError, match=message) as caught:
        _ = Probe.load(tmp_path / "p").frame
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([40], {"top_k": 0}, "top_k = 0: must be a whole number of at least 1"),
        ([40], {"max_length": 0}, "max_length = 0: must be a whole number of at least 2"),
        ([40], {"max_length": 3}, "nothing to score"),
        ([], {}, "nothing to score"),
        ([507], {}, "s/1: token id 507 is outside the model's vocabulary of 507"),
    ],
)
def test_bad_input(texts, ids, options, message):
    with pytest.raises(UserError, match=message):
        run(tiny_model("qwen3"), [replace(texts[1], completion_ids=ids)], **options)


def test_other_bad_input(checkpoint, texts, tmp_path):
    with pytest.raises(UserError, match="no such probe folder"):
        Probe.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="give `tokenizer`"):
        probe(tiny_model("qwen3"), texts)
    (tmp_path / "part-0.parquet").touch()
    with pytest.raises(UserError, match="something else"):
        probe(checkpoint, texts, tmp_path, **OPTIONS)
    done = probe(checkpoint, texts[:1], tmp_path / "p", **OPTIONS)
    with pytest.raises(UserError, match="no column 'entropie'"):
        done.columns(["entropie"])


def test_from_a_file_to_a_frame(checkpoint, tmp_path):
    (tmp_path / "x.py").write_text("print('é')\n")
    (tmp_path / "empty.py").write_text("")
    frame = probe(checkpoint, read_texts([tmp_path]), **OPTIONS)
    assert set(frame["sample_id"]) == {(tmp_path / "x.py").as_posix()}


def test_names_that_look_like_paths_write_nothing_outside(checkpoint, texts, tmp_path):
    name = "../../outside/\x00\n" + "x" * 300
    out = tmp_path / "deep" / "probe"
    tricky = [replace(texts[1], sample_id=name, problem_id="/etc/passwd")]
    assert set(probe(checkpoint, tricky, out, **OPTIONS).frame["sample_id"]) == {name}
    assert set(Probe.load(out).frame["sample_id"]) == {name}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and all(out in path.parents for path in written)
    assert all("outside" not in path.name for path in written)
