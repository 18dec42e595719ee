"""The other side of `engines.vllm`: in vLLM's own environment, which has not this package.

A line of JSON on stdin says what to load; then each line is a request. Each answer is a line of
JSON on what was stdout, as soon as it ends; vLLM's own words go to stderr. When who asked is gone,
also by SIGKILL, stdin ends or stdout breaks: this process and vLLM's own end, in loading too.
"""

import json
import multiprocessing
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

_LINKS: list[str] = []  # made by who asks, who may be gone
PATIENCE = 5.0  # seconds for a process to end by itself


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, lambda *_: _end())
    said = json.loads(sys.stdin.readline())
    _LINKS.extend([said["rivals"]["link"]] if "rivals" in said else [])
    waiting: queue.Queue[dict] = queue.Queue(maxsize=said["window"])
    threading.Thread(target=_read, args=(waiting,), daemon=True).start()

    import vllm
    from vllm import LLM

    arguments = {**_of_platform(), **said["arguments"], **_of_rivals(said.get("rivals"))}
    llm = LLM(model=said["model"], generation_config="vllm", **arguments)
    ready = {"version": vllm.__version__, "context": llm.model_config.max_model_len}
    print(json.dumps(ready), file=answers)

    try:
        _serve(llm.llm_engine, waiting, answers, said["window"])
    except BrokenPipeError:
        _end()


def _of_platform() -> dict[str, Any]:
    """On CPUs a prompt computed in pieces ends vLLM 0.32 where the request has a seed."""
    from vllm.platforms import current_platform

    return {"enable_chunked_prefill": False} if current_platform.is_cpu() else {}


def _of_rivals(said: "dict[str, Any] | None") -> dict[str, Any]:
    """Their rules, of the package in a folder; vLLM's own processes look there too."""
    if said is None:
        return {}
    from vllm.platforms import current_platform

    if current_platform.is_tpu():
        raise RuntimeError("vLLM on TPUs has no processors of logits for a --policy")
    sys.path.insert(0, os.path.dirname(said["link"]))
    from ssd_probe.policies.parsing import policy_in

    policy_in(said["policy"])  # what it needs is here, or is missed now
    return {"logits_processors": ["ssd_probe.engines.vllm_policies:Policies"]}


def _read(waiting: "queue.Queue[dict]") -> None:
    for line in sys.stdin:
        if line.endswith("\n"):  # else it was cut short
            waiting.put(json.loads(line))
    _end()


def _end() -> None:
    """vLLM's own processes would outlive this one: they are told to end, and then killed."""
    own = multiprocessing.active_children()
    for process in own:
        process.terminate()
    for process in own:
        process.join(PATIENCE)
    for link in _LINKS:  # never what they point to
        with suppress(OSError):
            os.unlink(link)
            os.rmdir(os.path.dirname(link))
    os.killpg(0, signal.SIGKILL)  # this process leads the group


def _serve(engine: Any, waiting: "queue.Queue[dict]", answers: Any, window: int) -> None:
    """Up to `window` requests under way, until this process ends."""
    under_way = 0
    while True:
        while under_way < window:
            try:  # only where nothing is under way, it waits for the next
                asked = waiting.get(block=not under_way)
            except queue.Empty:
                break
            _add(engine, asked)
            under_way += 1
        for output in engine.step():
            if output.finished:
                under_way -= 1
                print(json.dumps(_answer(output)), file=answers)


def _add(engine: Any, asked: dict) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(**asked["params"], output_kind=RequestOutputKind.FINAL_ONLY)
    engine.add_request(str(asked["place"]), {"prompt_token_ids": asked["ids"]}, params)


def _answer(output: Any) -> dict:
    outputs = sorted(output.outputs, key=lambda each: each.index)
    return {
        "place": int(output.request_id),
        "answers": [
            {
                "ids": list(each.token_ids),
                "reason": each.finish_reason,
                "matched": each.stop_reason,
                "support": _support(each),
            }
            for each in outputs
        ],
    }


def _support(output: Any) -> "list[int] | None":
    """Of the first token; None without return_sampling_mask, or of a vLLM that has none."""
    mask = getattr(output, "sampling_mask", None)
    return list(mask.token_ids[0]) if mask and mask.token_ids else None


if __name__ == "__main__":
    main()
