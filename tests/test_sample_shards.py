"""Shards of one run in one folder, what `--status` says is missing, and sampling that is killed."""

import json
import os

import pytest

from ssd_probe.commands.sample import sample_stage
from ssd_probe.commands.sampling.shards import Shard, status, status_lines
from ssd_probe.core.config import SampleConfig
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.claims import claim
from ssd_probe.files.reading import read_jsonl
from ssd_probe.models.identity import Checkpoint
from tests.sampling_kills import check

DECODING = Decoding(1.6, 20, 0.8)
CONFIG = SampleConfig(n=2, max_new_tokens=6)
TINY = Checkpoint("tiny")


def sample(out, config=CONFIG, **about):
    return sample_stage(TINY, "tiny:dev", DECODING, out, config, limit=5, **about)


def test_shards_fill_one_folder_with_the_samples_of_one_run(tmp_path):
    whole, out = sample(tmp_path / "s.jsonl"), tmp_path / "shared"
    for number in (3, 1):
        rows = sample(out, shard=Shard(number, 3))
        assert rows == [row for at, row in enumerate(whole) if at // 2 % 3 == number - 1]
        assert sample(out, shard=Shard(number, 3)) == rows  # once more: nothing is drawn
    assert not (out / "samples.jsonl").exists()
    found = status(out)
    assert (found["answers"], found["drawn"]) == (10, 6)
    missing = {row["problem_id"]: [0, 1] for at, row in enumerate(whole) if at // 2 % 3 == 1}
    assert found["missing"] == missing
    words = status_lines(out, found)
    assert words[0] == f"6 of 10 answers in {out}"
    assert words[2] == "shard 2/3: 0 of 4 answers, not at work"
    sample(out, shard=Shard(2, 3))
    assert read_jsonl(out / "samples.jsonl") == whole
    assert status(out)["missing"] == {}


def test_what_a_killed_shard_drew_counts(tmp_path):
    whole, out = sample(tmp_path / "s.jsonl"), tmp_path / "shared"
    sample(out, shard=Shard(1, 2))
    kept = [{"problem_id": whole[2]["problem_id"], "index": 1, "ids": whole[3]["completion_ids"]}]
    part = Shard(2, 2).file(out).with_name(Shard(2, 2).file(out).name + ".part")
    torn = json.dumps(kept[0]) + "\n" + '{"problem_id": "half'
    part.write_text(torn)
    found = status(out)
    assert found["missing"][whole[2]["problem_id"]] == [0]
    assert found["shards"][1] == {"shard": "2/2", "answers": 4, "drawn": 1, "at_work": False}
    assert part.read_text() == torn  # looking changes nothing
    sample(out, shard=Shard(2, 2))
    assert read_jsonl(out / "samples.jsonl") == whole


def test_a_shard_twice_other_settings_and_more_shards_are_refused(tmp_path):
    out = tmp_path / "shared"
    sample(out, shard=Shard(1, 2))
    with claim(out, rank=2), pytest.raises(UserError, match="in use by"):
        assert status(out)["shards"][1]["at_work"]
        sample(out, shard=Shard(2, 2))
    with pytest.raises(UserError, match="shards: 2 -> 3"):
        sample(out, shard=Shard(1, 3))
    with pytest.raises(UserError, match="max_new_tokens: 6 -> 7"):
        sample(out, SampleConfig(n=2, max_new_tokens=7), shard=Shard(2, 2))
    file = tmp_path / "s.jsonl"
    sample(file)
    with pytest.raises(UserError, match="is a file"):
        sample(file, shard=Shard(1, 2))
    assert status(file)["missing"] == {}


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "1", "a/b", "1/2/3", "-1/2", "1/99999"])
def test_a_shard_is_i_of_n(text):
    with pytest.raises(UserError, match="must be i/n"):
        Shard.of(text)


def test_more_shards_than_prompts(tmp_path):
    out = tmp_path / "shared"
    for number in range(1, 8):
        sample(out, shard=Shard(number, 7))
    assert len(read_jsonl(out / "samples.jsonl")) == 10 and status(out)["missing"] == {}


@pytest.mark.slow(reason="samples again after every kill")
@pytest.mark.parametrize("engine", ["hf", "server"])
def test_nothing_is_lost_or_doubled_when_it_is_killed(engine, tmp_path):
    check(tmp_path, int(os.environ.get("SSD_PROBE_KILLS", "6")), engine)
