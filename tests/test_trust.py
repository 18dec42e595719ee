"""What a probe says about itself (recomputed positions, noise floor, padding), and pairs."""

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet

from ssd_probe.cli import app as cli
from ssd_probe.commands.compare import compare_stage
from ssd_probe.errors import UserError
from ssd_probe.models.checkpoints import load_tokenizer
from ssd_probe.probing.forward import encode
from ssd_probe.probing.probe import Probe, probe
from ssd_probe.probing.trust import VERIFIED, verify
from ssd_probe.problems.texts import Text
from tests.models import save, tiny_model, tiny_tokenizer

OPTIONS = {"top_k": 8, "progress": False, "device": "cpu"}
SOURCE = Path(textwrap.__file__).read_text()
TEXTS = [
    Text(
        f"{n}.py",
        f"{n}.py",
        None,
        None,
        SOURCE[600 * n :][: 90 + 40 * n],
        kind="source",
        path="x.py",
    )
    for n in range(5)
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Base, tuned (other weights, same tokens), and one with other tokens."""
    folder = tmp_path_factory.mktemp("models")
    save(folder / "base"), save(folder / "tuned", seed=1), save(folder / "other", seed=2)
    tokenizer = tiny_tokenizer()
    text = (folder / "other" / "tokenizer.json").read_text()
    swapped = tokenizer.convert_ids_to_tokens([300, 301])
    content = json.loads(text)
    vocabulary = content["model"]["vocab"]
    vocabulary[swapped[0]], vocabulary[swapped[1]] = vocabulary[swapped[1]], vocabulary[swapped[0]]
    (folder / "other" / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_verify_and_noise_floor_are_recorded(models, tmp_path, capsys):
    done = probe(models / "base", TEXTS, tmp_path / "p", verify=25, noise_floor=3, **OPTIONS)
    record = json.loads((tmp_path / "p" / "probe.json").read_text())
    assert record["verified"]["positions"] == 25
    assert set(record["verified"]["largest_error"]) == set(VERIFIED)
    assert 0 < max(record["verified"]["largest_error"].values()) < 1e-4
    assert record["verified"]["other_top1"] == 0
    assert record["noise"]["texts"] == 3 and record["noise"]["entropy"] < 1e-4
    assert 0 < record["padding_mass"]["mean"] <= record["padding_mass"]["max"] <= 1

    noise, frame = done.noise, done.frame
    assert noise["sample_id"].nunique() == 3
    again = frame[frame["sample_id"].isin(noise["sample_id"])]
    np.testing.assert_allclose(noise["entropy"], again["entropy"], rtol=1e-4)
    before = (tmp_path / "p" / "probe.json").stat().st_mtime_ns
    probe(models / "base", TEXTS, tmp_path / "p", verify=25, noise_floor=3, **OPTIONS)
    assert (tmp_path / "p" / "probe.json").stat().st_mtime_ns == before  # nothing was done again


def test_verify_sees_a_wrong_number(models, tmp_path):
    done = probe(models / "base", TEXTS, tmp_path / "p", **OPTIONS)
    sequences = [encode(text, tiny_tokenizer()) for text in TEXTS]
    frame = done.frame
    frame.loc[len(frame) - 1, "entropy"] += 0.5
    halves = [frame[: len(frame) // 2], frame[len(frame) // 2 :]]
    found = verify(tiny_model("qwen3"), sequences, halves, len(frame))
    assert found["positions"] == len(frame)
    assert found["largest_error"]["entropy"] == pytest.approx(0.5, abs=1e-3)
    assert found["largest_error"]["logprob"] < 1e-4
    frame.loc[0, "varentropy"] = np.nan
    found = verify(tiny_model("qwen3"), sequences, [frame], len(frame))
    assert found["largest_error"]["varentropy"] == np.inf


def test_a_training_model_is_verified_without_dropout(tmp_path):
    model = tiny_model("qwen3", attention_dropout=0.5).train()
    options = OPTIONS | {"tokenizer": tiny_tokenizer(), "verify": 9, "noise_floor": 2}
    done = probe(model, TEXTS, tmp_path / "p", **options)
    assert max(done.record["verified"]["largest_error"].values()) < 1e-4
    assert done.record["noise"]["entropy"] < 1e-4
    assert model.training
    with pytest.raises(UserError, match="give `out`"):
        probe(model, TEXTS, **options)


def test_a_pair_is_both_probes_and_their_divergences(models, tmp_path):
    pair = probe(models / "base", TEXTS, tmp_path / "pair", pair=models / "tuned", **OPTIONS)
    for name, side in (("base", "base"), ("tuned", "other")):
        alone = probe(models / name, TEXTS, tmp_path / name, **OPTIONS).frame
        half = Probe.load(tmp_path / "pair", columns=list(alone.columns), side=side).frame
        for column in ("token", "syntax", "valid", "rank"):
            assert (alone[column] == half[column]).all(), column
        for column in ("entropy", "logprob", "tail_log_mass", "padding_mass"):
            np.testing.assert_allclose(alone[column], half[column], rtol=1e-4, atol=1e-5)
        assert (np.stack(alone["top_ids"]) == np.stack(half["top_ids"])).mean() > 0.99

    frame, row = pair.frame, 3
    ids = torch.tensor([encode(TEXTS[0], tiny_tokenizer()).ids[: row + 1]])
    with torch.no_grad():
        p, q = (tiny_model("qwen3", seed=s)(ids).logits[0, -1].double().softmax(-1) for s in (0, 1))
    assert frame["position"][row] == row + 1
    assert frame["kl_base_other"][row] == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-4)
    assert frame["tv"][row] == pytest.approx(float((p - q).abs().sum() / 2), rel=1e-4)


def test_compare_reads_pairs_and_folders_alike(models, tmp_path):
    from ssd_probe.decoding import Decoding

    decoding = Decoding(1.2, 4, 0.9)
    probe(models / "base", TEXTS, tmp_path / "pair", pair=models / "tuned", **OPTIONS)
    for name in ("base", "tuned", "other"):
        probe(models / name, TEXTS, tmp_path / name, **OPTIONS)
    one, *_ = compare_stage(None, None, tmp_path / "pair", decoding, labelling=decoding)
    sides = tmp_path / "base", tmp_path / "tuned"
    two, *_ = compare_stage(*sides, None, decoding, labelling=decoding)
    keys = ["label", "statistic"]
    both = one.comparison.merge(two.comparison, on=keys, validate="1:1")  # only the pair has kl
    same = both[both["statistic"].isin(["entropy", "branching", "top1_agreement"])]
    np.testing.assert_allclose(same["difference_x"], same["difference_y"], rtol=1e-3, atol=1e-5)
    assert (one.comparison["missing"] == 0).all() and "kl" in set(one.comparison["statistic"])
    with pytest.raises(UserError, match="different tokenizers"):
        compare_stage(tmp_path / "base", tmp_path / "other", None, decoding)
    with pytest.raises(UserError, match="give --base and --tuned, or --pair"):
        compare_stage(tmp_path / "base", None, None, decoding)
    with pytest.raises(UserError, match="give either --pair"):
        compare_stage(tmp_path / "base", None, tmp_path / "pair", decoding)
    with pytest.raises(UserError, match="not a pair"):
        Probe.load(tmp_path / "base", side="other")


def test_pairs_that_cannot_be_compared(models, tmp_path):
    with pytest.raises(
        UserError, match="different tokens .*30[01] in the first, 30[01] in the second"
    ):
        probe(models / "base", TEXTS, tmp_path / "p", pair=models / "other", **OPTIONS)
    save(tmp_path / "wider", vocab_size=520)
    with pytest.raises(UserError, match="507 and 520 rows"):
        probe(models / "base", TEXTS, tmp_path / "p", pair=tmp_path / "wider", **OPTIONS)
    with pytest.raises(UserError, match=r"pair\.config: None -> [0-9a-f]{64}"):
        probe(models / "base", TEXTS, tmp_path / "q", **OPTIONS)
        probe(models / "base", TEXTS, tmp_path / "q", pair=models / "tuned", **OPTIONS)


def test_a_model_in_memory_as_pair_must_have_the_same_tokens(models, tmp_path):
    tuned, options = tiny_model("qwen3", seed=1), OPTIONS | {"tokenizer": tiny_tokenizer()}
    base = models / "base"
    with pytest.raises(UserError, match="give `pair_tokenizer` with a model object"):
        probe(base, TEXTS[:1], pair=tuned, **options)
    other = load_tokenizer(models / "other")
    with pytest.raises(UserError, match="different tokens"):
        probe(base, TEXTS[:1], pair=tuned, pair_tokenizer=other, **options)
    frame = probe(base, TEXTS[:1], pair=tuned, pair_tokenizer=tiny_tokenizer(), **options)
    assert "kl_base_other" in frame.columns


def test_the_dtype_of_a_named_pair_is_recorded_also_beside_a_model_in_memory(models, tmp_path):
    options = OPTIONS | {"tokenizer": tiny_tokenizer(), "pair": models / "base"}
    model = tiny_model("qwen3")
    probe(model, TEXTS[:1], tmp_path / "p", dtype="float32", **options)
    with pytest.raises(UserError, match="dtype: float32 -> bfloat16"):
        probe(model, TEXTS[:1], tmp_path / "p", dtype="bfloat16", **options)


def test_too_long_texts_are_skipped_when_asked(models, tmp_path, capsys):
    done = probe(models / "base", TEXTS, tmp_path / "p", max_length=70, too_long="skip", **OPTIONS)
    lengths = [len(encode(text, tiny_tokenizer()).ids) for text in TEXTS]
    fitting = {t.sample_id for t, n in zip(TEXTS, lengths, strict=True) if n <= 70}
    assert 0 < len(fitting) < len(TEXTS)
    assert set(done.frame["sample_id"]) == fitting
    assert done.record["truncated"] == len(TEXTS) - len(fitting)
    assert "are longer than 70 tokens, max_length: skipped" in capsys.readouterr().err
    with pytest.raises(UserError, match="choose truncate or skip"):
        probe(models / "base", TEXTS, tmp_path / "q", too_long="drop", **OPTIONS)


def test_nan_logits_are_flagged_and_counted(tmp_path, capsys):
    model = tiny_model("qwen3", tie_word_embeddings=False)
    ids = [set(encode(text, tiny_tokenizer()).ids) for text in TEXTS[:2]]
    with torch.no_grad():
        model.model.embed_tokens.weight[min(ids[1] - ids[0])] = torch.nan
    done = probe(
        model, TEXTS[:2], tmp_path / "p", tokenizer=tiny_tokenizer(), batch_size=1, **OPTIONS
    )
    frame = done.frame
    assert frame["valid"].any() and not frame["valid"].all()
    assert frame["entropy"][~frame["valid"]].isna().all()
    assert done.record["invalid"] == (~frame["valid"]).sum()
    assert "have NaN or infinite logits" in capsys.readouterr().err


def test_the_command(models, tmp_path, monkeypatch, capsys):
    (tmp_path / "x.py").write_text(SOURCE[:200])
    command = f"probe --model {models / 'base'} --text {tmp_path / 'x.py'} --out {tmp_path / 'p'}"
    monkeypatch.setattr(
        "sys.argv", ["ssd-probe", *command.split(), "--verify", "5", "--noise-floor", "1"]
    )
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "largest error of 5 positions" in out and "scored again in other batches" in out
    assert "rows that are no tokens" in out
    assert parquet.read_table(tmp_path / "p" / "noise.parquet").num_rows > 10
