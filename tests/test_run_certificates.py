"""A run's certificates: of its base at its decodings, recorded there, and no others."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from ssd_probe.commands.loop.dry import dry_run
from ssd_probe.commands.loop.presets import choose
from ssd_probe.commands.loop.run import _certificates as certificates_of
from ssd_probe.commands.loop.run import run_stage
from ssd_probe.commands.run_folder import RunFolder
from ssd_probe.commands.sampling.certificates import certified, known_of
from ssd_probe.commands.sampling.conformance import conformance_stage
from ssd_probe.decoding import Decoding
from ssd_probe.engines.choice import Choice, engine_of
from ssd_probe.errors import UserError
from ssd_probe.execution import sandbox
from ssd_probe.models.identity import Checkpoint
from ssd_probe.policies.parsing import policy_of

FILE = """
model: tiny
prompts: tiny:ssd
prompt_limit: 8
max_new_tokens: 16
arms:
  ssd: {T_train: 1.6, top_k: 20, top_p: 0.8}
  round2: {from: ssd, T_train: 1.6, top_k: 20, top_p: 0.8}
training: {learning_rate: 1e-3, batch_size: 8, max_steps: 1}
T_eval: [1.0, 1.3]
dev: {problems: tiny:dev, limit: 1, n: 1}
test: {problems: tiny:test, limit: 1, n: 1}
texts: tiny:test
text_limit: 1
"""
TRAIN, EVAL = Decoding(1.6, 20, 0.8), Decoding(1.3, 20, 0.8)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Files, of the training's decoding and of one of the evaluations'."""
    folder, files = tmp_path_factory.mktemp("certificates"), []
    for decoding in (TRAIN, EVAL):
        files.append(folder / f"{decoding.temperature}.json")
        tiny = Checkpoint("tiny")
        conformance_stage(tiny, decoding, Choice("hf"), draws=1_000, out=files[-1])
    return list(map(str, files))


def chosen(folder, files):
    (folder / "loop.yaml").write_text(FILE)
    return choose(str(folder / "loop.yaml"), changes={"certificates": files})


def conformance(record):
    return json.loads(record.read_text()).get("conformance")


@pytest.mark.slow(reason="a whole run, though of one problem")
def test_they_are_recorded_where_they_hold_and_nowhere_else(tmp_path, certificates):
    out, unboxed = tmp_path / "run", sandbox.obstacle() is not None
    run_stage(chosen(tmp_path, certificates), out, unsandboxed=unboxed)
    train, tested = (json.loads(Path(file).read_text()) for file in certificates)
    assert conformance(out / "run.json") == [train, tested]
    assert conformance(out / "samples" / "ssd.jsonl.run.json") == train
    assert conformance(out / "samples" / "round2.jsonl.run.json") is None  # of a student
    samples = out / "evaluations" / "dev" / "samples"
    for model in ("base", "ssd", "round2"):
        for decoding in (Decoding(1.0, 20, 0.8), EVAL):
            found = conformance(
                samples / model / f"T{decoding.temperature}-k20-p0.8.jsonl.run.json"
            )
            assert found == (tested if (model, decoding) == ("base", EVAL) else None)
    recorded = json.loads((out / "run.json").read_text())["settings"]["loop"]
    assert "certificates" not in recorded  # so that it goes on with none
    run_stage(chosen(tmp_path, []), out, unsandboxed=unboxed)
    assert conformance(out / "run.json") == [train, tested]


@pytest.mark.parametrize(("change", "message"), [
    ({"decoding": Decoding(0.7).to_dict()},
     "none of what tiny is drawn at here: T=1.6, top-k 20, top-p 0.8; T=1, top-k"),
    ({"model": {}}, "certifies another model than these samples would have"),
    ({"engine": "vllm"}, "certifies another engine than"),
    ({"engine_version": "transformers 0"}, "certifies another engine version than"),
    ({"setup": {"engine_arguments": {}}}, "certifies another setup than"),
    ({"passed": False}, "says that this engine failed"),
    ({"created": "later"}, "of T=1.6, top-k 20, top-p 0.8, as "),  # and the other of it, too
    (None, "no such file"),
    ("{", "damaged"),
])  # fmt: skip
def test_others_are_refused_before_anything_is_computed(tmp_path, certificates, change, message):
    path = tmp_path / "c.json"
    if isinstance(change, dict):
        path.write_text(json.dumps(json.loads(Path(certificates[0]).read_text()) | change))
    elif change:
        path.write_text(change)
    files = [*certificates[: 1 if change == {"created": "later"} else 0], str(path)]
    with pytest.raises(UserError) as error:
        run_stage(chosen(tmp_path, files), tmp_path / "run", unsandboxed=True)
    said = str(error.value)
    assert said.startswith(f"{path}: ") and message in said and "\n" not in said
    if "certifies another" not in said and "engine failed" not in said:  # which needs the engine
        with pytest.raises(UserError) as error:
            dry_run(chosen(tmp_path, files), tmp_path / "run")
        assert str(error.value) == said
    assert not (tmp_path / "run").exists()


def test_a_dry_run_names_them(tmp_path, certificates):
    lines = dry_run(chosen(tmp_path, certificates), tmp_path / "run")
    named = [line for line in lines if "--certificate" in line and line[0] != "#"]
    outs = [line.split("--out ")[1].removeprefix(f"{tmp_path}/run/") for line in named]
    assert outs == ["samples/ssd.jsonl", "evaluations/dev/base-T1.3.jsonl"]
    (told,) = (line for line in lines if "if dev chooses it" in line)  # training is not chosen
    assert told == f"# of the base at {EVAL}, if dev chooses it: --certificate {certificates[1]}"


def test_a_model_that_is_not_here_yet_is_still_compared(certificates, monkeypatch):
    """Once it is to be drawn from; a dry run cannot know it."""
    tiny, where = Checkpoint("tiny"), "ssd_probe.commands.sampling.certificates.is_here"
    monkeypatch.setattr(where, lambda _: False)
    monkeypatch.setattr(Checkpoint, "identity", {"weights": "others"})
    with closing(engine_of(Choice("hf"), tiny)) as engine:
        assert known_of(tiny, engine).keys() == {"setup"}
        with pytest.raises(UserError, match="certifies another model"):
            certified(Path(certificates[0]), tiny, engine, TRAIN)


def test_a_rivals_certificate_is_of_the_base_too(tmp_path, certificates):
    """Of every rival that the run may draw: beside each arm, at each T_eval, with its own rest."""
    path = tmp_path / "two-stage.json"
    policy = policy_of("two-stage(T_train=1.6, top_k=20, top_p=0.8)", EVAL)
    conformance_stage(Checkpoint("tiny"), policy, Choice("hf"), draws=1_000, out=path)
    files = [*certificates, str(path)]
    (tmp_path / "loop.yaml").write_text(FILE + "rivals: [two-stage, min-p(0.1)]\n")
    loop = choose(str(tmp_path / "loop.yaml"), changes={"certificates": files})
    folder = RunFolder(tmp_path / "run", loop.loop)
    min_p = policy_of("min-p(0.1)", Decoding(1.3))
    assert {policy, min_p, TRAIN, EVAL} < set(folder.drawn_from_base())
    lines = dry_run(loop, tmp_path / "run")
    (dev,) = (line for line in lines if f"--certificate {path}" in line and line[0] != "#")
    assert dev.endswith("evaluations/dev/two-stage-T1.3.jsonl")
    assert [each["decoding"] for each in certificates_of(folder)] == [
        TRAIN.to_dict(), EVAL.to_dict(), policy.to_dict(),
    ]  # fmt: skip


def test_the_base_is_drawn_at(tmp_path):
    loop = chosen(tmp_path, []).loop
    assert loop.base_decodings == (TRAIN, Decoding(1.0, 20, 0.8), EVAL)
    alone = choose("qwen3-4b-instruct").loop  # without dev, the base at its baseline only
    assert alone.base_decodings == (alone.arms[0].decoding, alone.baseline)
