"""A stand-in for the package `vllm`, as far as `engines/vllm_worker.py` goes; has no model.

`environment(folder)` puts it into a new environment there. It has a process of its own besides, as
vLLM has, and answers each request with its own prompt, in time. That is its
support, too, where masks are asked for. With FAKE_VLLM_LOADING it loads
for ever; FAKE_VLLM_STEP is the time between two answers.
"""

import multiprocessing
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

__version__ = "0 (not vLLM)"


def environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "vllm.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (packages / "torch_too.pth").write_text(sysconfig.get_path("purelib"))  # as vLLM's own has
    return folder


class LLM:
    def __init__(self, **given):
        self.tells = given.get("return_sampling_mask") and given["logprobs_mode"]
        multiprocessing.get_context("spawn").Process(target=time.sleep, args=(1e6,)).start()
        if "FAKE_VLLM_LOADING" in os.environ:
            time.sleep(1e6)
        self.llm_engine, self.under_way = self, []
        self.model_config = SimpleNamespace(max_model_len=512)

    def add_request(self, name, prompt, params):
        self.under_way.append((name, prompt["prompt_token_ids"], params.n))

    def step(self):
        time.sleep(float(os.environ.get("FAKE_VLLM_STEP", "0")))
        name, ids, n = self.under_way.pop(0)
        about = {"token_ids": ids, "finish_reason": "length", "stop_reason": None}
        if self.tells == "processed_logprobs":
            about["sampling_mask"] = SimpleNamespace(token_ids=[ids])
        outputs = [SimpleNamespace(index=i, **about) for i in reversed(range(n))]
        return [SimpleNamespace(request_id=name, outputs=outputs, finished=True)]


class SamplingParams(SimpleNamespace):
    def __init__(self, **given):
        super().__init__(**{"n": 1, **given})


if __name__ == "vllm":
    for part, holds in {
        "platforms": {
            "current_platform": SimpleNamespace(is_cpu=lambda: True, is_tpu=lambda: False)
        },
        "sampling_params": {"RequestOutputKind": SimpleNamespace(FINAL_ONLY=2)},
    }.items():
        module = ModuleType(f"vllm.{part}")
        vars(module).update(holds)
        sys.modules[module.__name__] = module
