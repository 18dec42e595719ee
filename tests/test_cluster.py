"""docs/cluster.md at small scale: its files as they stand, on CPUs, where jobs may be killed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/cluster.md").read_text()
FENCE = re.compile(r"`([\w.-]+)`:\n\n```(?:bash|yaml)\n(.*?)^```", re.S | re.M)


def written(folder):
    """The page's files; of commands on GPUs the ones that do the same on CPUs."""
    files = dict(FENCE.findall(PAGE))
    for name, text in files.items():
        text = text.replace("-m ssd_probe.cli", "-m tests.fsdp_on_cpu")
        (folder / name).write_text(text)
    return files


def run(command, folder, **variables):
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    given = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(folder), **paths}
    given |= {"RUN": str(folder / "run"), "MODEL": "tiny", "PROMPTS": "tiny:ssd", "TOKENS": "48"}
    given |= {"TEXT": str(folder / "run/samples/samples.jsonl"), "LIMIT": "4", "GPUS": "2"}
    given |= {"BATCH": "2", "STEPS": "4", "WARMUP": "1", "SAVE": "2"}
    return subprocess.run(
        command, cwd=folder, env=given | variables, capture_output=True, text=True
    )


def test_its_files_are_there_and_say_what_they_should(tmp_path):
    files = written(tmp_path)
    assert set(files) == {"sample.sbatch", "fsdp.yaml", "train.sbatch", "probe.sbatch",
                          "sample-job.yaml"}  # fmt: skip
    for name in files:
        if name.endswith(".sbatch"):
            assert run(["bash", "-n", name], tmp_path).returncode == 0
    job = yaml.safe_load(files["sample-job.yaml"])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert f'/{job["spec"]["completions"]}"' in container["args"][0]
    config = yaml.safe_load(files["fsdp.yaml"])
    assert config["distributed_type"] == "FSDP" and config["fsdp_config"]["fsdp_version"] == 2


@pytest.mark.slow(reason="a small cluster: seven processes, one after another")
def test_its_jobs_run_on_cpus(tmp_path):
    files = written(tmp_path)
    sample = (tmp_path / "sample.sbatch").read_text().replace("--prompts", "--limit 8 --prompts")
    (tmp_path / "sample.sbatch").write_text(sample)
    array = {"SLURM_ARRAY_TASK_COUNT": "2"}
    for number in ("1", "2"):
        done = run(["bash", "sample.sbatch"], tmp_path, SLURM_ARRAY_TASK_ID=number, **array)
        assert done.returncode == 0, done.stderr
    assert len((tmp_path / "run/samples/samples.jsonl").read_text().splitlines()) == 8
    done = run(["bash", "train.sbatch"], tmp_path)
    assert done.returncode == 0, done.stderr
    student = tmp_path / "run/student"
    tensors = load_file(student / "model.safetensors")
    assert tensors["model.norm.weight"].shape == (128,)  # whole, not a part
    assert json.loads((student / "config.json").read_text())["architectures"] == [
        "Qwen3ForCausalLM"
    ]
    done = run(["bash", "probe.sbatch"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "run/probes").iterdir()} == {"base", "student"}
    job = yaml.safe_load(files["sample-job.yaml"])["spec"]["template"]["spec"]["containers"][0]
    pod = {"RUN": str(tmp_path / "pod"), "JOB_COMPLETION_INDEX": "7"}
    args = job["args"][0].replace("--prompts", "--limit 8 --prompts")
    done = run([*job["command"], args], tmp_path, **pod)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pod/samples/shard-00008-of-00008.jsonl").exists()
