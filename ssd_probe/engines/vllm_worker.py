"""The other side of `engines.vllm`: runs in vLLM's own environment, knows nothing of this package.

A line of JSON on stdin says what to load; then each line is a request. Each answer is a line of
JSON on what was stdout, as soon as it ends; vLLM's own words go to stderr.
"""

import json
import os
import queue
import sys
import threading
from typing import Any


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    said = json.loads(sys.stdin.readline())

    import vllm
    from vllm import LLM

    arguments = {**_of_platform(), **said["arguments"]}
    llm = LLM(model=said["model"], generation_config="vllm", **arguments)
    ready = {"version": vllm.__version__, "context": llm.model_config.max_model_len}
    print(json.dumps(ready), file=answers)

    waiting: queue.Queue[dict | None] = queue.Queue(maxsize=said["window"])
    threading.Thread(target=_read, args=(waiting,), daemon=True).start()
    _serve(llm.llm_engine, waiting, answers, said["window"])


def _of_platform() -> dict[str, Any]:
    """On CPUs a prompt computed in pieces ends vLLM 0.32 where the request has a seed."""
    from vllm.platforms import current_platform

    return {"enable_chunked_prefill": False} if current_platform.is_cpu() else {}


def _read(waiting: "queue.Queue[dict | None]") -> None:
    for line in sys.stdin:
        waiting.put(json.loads(line))
    waiting.put(None)


def _serve(engine: Any, waiting: "queue.Queue[dict | None]", answers: Any, window: int) -> None:
    """Up to `window` requests under way, until stdin ends and all are answered."""
    more, under_way = True, 0
    while more or under_way:
        while more and under_way < window:
            try:  # only where nothing is under way, it waits for the next
                asked = waiting.get(block=not under_way)
            except queue.Empty:
                break
            if asked is None:
                more = False
            else:
                _add(engine, asked)
                under_way += 1
        for output in engine.step() if under_way else ():
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
            {"ids": list(each.token_ids), "reason": each.finish_reason, "matched": each.stop_reason}
            for each in outputs
        ],
    }


if __name__ == "__main__":
    main()
