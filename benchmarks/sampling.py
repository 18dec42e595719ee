"""Sampling, against the plain loop over prompts and against an earlier checkout of this project.

    python benchmarks/sampling.py --model smollm2                       # 8 basics problems, n = 10
    python benchmarks/sampling.py --model smollm2 --before ../earlier   # also that checkout's code
    OMP_NUM_THREADS=1 python benchmarks/sampling.py --model smollm2     # on one core

`loop` is transformers' `generate` with `num_return_sequences`, a prompt at a time, with torch's own
threads; `static` is `generate` on padded batches of `--batch-size`, each as long as its longest
answer. Each method is a process that holds its model; they take turns, so that a busy machine
slows all alike. The answers of `now` and `before` are compared. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

MOST = 160  # new tokens
DECODING = (0.7, 20, 0.8)


def work(args: argparse.Namespace) -> None:
    """A process of one method: for each line on stdin a round, its seconds and answers."""
    import torch

    from ssd_probe.core.sample import sample
    from ssd_probe.decoding import Decoding
    from ssd_probe.models.checkpoints import load_model, load_tokenizer
    from ssd_probe.models.tokens import render_prompt
    from ssd_probe.problems.prompts import read_prompts

    model, tokenizer = load_model(args.model), load_tokenizer(args.model)
    prompts = read_prompts(args.prompts, args.limit)

    def loop() -> list[list[int]]:
        temperature, top_k, top_p = DECODING
        answers: list[list[int]] = []
        for prompt in prompts:
            ids = torch.tensor([render_prompt(tokenizer, prompt)])
            made = model.generate(
                ids, attention_mask=torch.ones_like(ids), num_return_sequences=args.n,
                max_new_tokens=MOST, do_sample=True, temperature=temperature, top_k=top_k,
                top_p=top_p, pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
            ends = [tokenizer.pad_token_id, tokenizer.eos_token_id]
            for row in made[:, ids.shape[1] :].tolist():
                answers.append(row[: next((i for i, t in enumerate(row) if t in ends), len(row))])
        return answers

    def ours() -> list[list[int]]:
        size = {"n": args.n, "max_new_tokens": MOST, "batch_size": args.batch_size}
        rows = sample(model, tokenizer, prompts, Decoding(*DECODING), **size)
        return [row["completion_ids"] for row in rows]

    def static() -> list[list[int]]:
        temperature, top_k, top_p = DECODING
        asked = [render_prompt(tokenizer, p) for p in prompts for _ in range(args.n)]
        answers: list[list[int]] = []
        for start in range(0, len(asked), args.batch_size):
            batch = asked[start : start + args.batch_size]
            width = max(map(len, batch))
            pads = [[tokenizer.pad_token_id] * (width - len(ids)) for ids in batch]
            rows = zip(pads, batch, strict=True)
            made = model.generate(
                torch.tensor([pad + ids for pad, ids in rows]),
                attention_mask=torch.tensor(
                    [[0] * len(pad) + [1] * (width - len(pad)) for pad in pads]
                ),
                max_new_tokens=MOST, do_sample=True, temperature=temperature, top_k=top_k,
                top_p=top_p, pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
            ends = [tokenizer.pad_token_id, tokenizer.eos_token_id]
            for row in made[:, width:].tolist():
                answers.append(row[: next((i for i, t in enumerate(row) if t in ends), len(row))])
        return answers

    method = {"loop": loop, "static": static}.get(args.work, ours)
    for _ in sys.stdin:
        start = time.perf_counter(), time.process_time()
        answers = method()
        spent = time.perf_counter() - start[0], time.process_time() - start[1]
        print(json.dumps([*spent, answers]), flush=True)


def begin(name: str, where: Path) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *sys.argv[1:], "--work", name]
    env = {**os.environ, "PYTHONPATH": str(where)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=env, **pipes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--prompts", default="basics:dev")
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--before", type=Path, help="a checkout of this project at an older commit")
    parser.add_argument(
        "--work", choices=("now", "loop", "static", "before"), help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    if args.work:
        work(args)
        return
    here = Path(__file__).parents[1]
    methods = {name: begin(name, here) for name in ("now", "loop", "static")}
    if args.before:
        methods["before"] = begin("before", args.before)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    cpu: dict[str, list[float]] = {name: [] for name in methods}
    answers: dict[str, list[list[int]]] = {}
    for round_ in range(args.repeats):
        for name, process in methods.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            wall, busy, answers[name] = json.loads(process.stdout.readline())
            seconds[name].append(wall)
            cpu[name].append(busy)
            print(f"round {round_}: {name} {wall:.1f} s, of CPU {busy:.1f} s", file=sys.stderr)
    for process in methods.values():
        process.stdin.close()
        process.wait()
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    tokens = {name: sum(map(len, each)) for name, each in answers.items()}
    rates = {name: tokens[name] / medians[name] for name in medians}
    for name, median in medians.items():
        busy = statistics.median(cpu[name])
        about = f"{tokens[name]} tokens, {rates[name]:.0f} tokens/s"
        print(f"{name}: {median:.1f} s, {busy:.1f} s of CPU, {about}")
    lengths = sorted(map(len, answers["now"]))
    spread = {"shortest": lengths[0], "median": statistics.median(lengths), "longest": lengths[-1]}
    found: dict = {
        "lengths": spread,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "tokens": tokens,
        "tokens_per_s": rates,
    }
    if args.before:
        pairs = zip(answers["now"], answers["before"], strict=True)
        found["equal_answers"] = sum(one == other for one, other in pairs)
        print(f"{found['equal_answers']} of {len(answers['now'])} answers are those of before")
    print(json.dumps({
        "benchmark": "sampling", "model": args.model, "prompts": args.prompts,
        "limit": args.limit, "n": args.n, "batch_size": args.batch_size, **found,
        "time": time.strftime("%Y-%m-%d"),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
