"""What a probe adds to the model's own forward, in time and in memory.

    python benchmarks/probe.py                # 8 samples of 1,024 tokens, V = 151,936
    python benchmarks/probe.py --long 8192    # also the memory of one sequence of that length
    python benchmarks/probe.py --model DIR    # a checkpoint, on the text of docs/method.md

A random Qwen3-shaped model (4 layers, D = 1,024) in float32, or a checkpoint. `bare` is its
transformer and the matrix product with the output layer, 1,024 positions at a time, whose logits
are thrown away; `probe` is `Scorer.score_batch`. Memory is a new process's peak above what it held
with the weights loaded; of the statistics: with the hidden states given, and less the statistics
themselves, which are the result. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from timing import PeakMemory, medians
from transformers import AutoModelForCausalLM, Qwen3Config

from ssd_probe.models.checkpoints import load_model, load_tokenizer
from ssd_probe.models.heads import hidden_states
from ssd_probe.probing.forward import Encoded, Scorer, padded
from ssd_probe.problems.texts import Text

TOP_K = 64
TEXT = Path(__file__).parent.parent / "docs" / "method.md"


def qwen3(vocabulary: int) -> torch.nn.Module:
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=1024, intermediate_size=3072, num_hidden_layers=4,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128, max_position_embeddings=65536,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def sequences(count: int, length: int, vocabulary: int) -> list[Encoded]:
    return encoded(torch.randint(vocabulary, (count, length)))


def read_sequences(path: str, count: int, length: int) -> list[Encoded]:
    """Of a checkpoint's tokens of `TEXT`, over and over."""
    ids = torch.tensor(load_tokenizer(path)(TEXT.read_text())["input_ids"])
    return encoded(ids[torch.arange(count * length) % len(ids)].view(count, length))


def encoded(ids: torch.Tensor) -> list[Encoded]:
    text = Text("s", "s", None, None, "")
    return [Encoded(text, row, 1, 1, len(row)) for row in ids.tolist()]


@torch.inference_mode()
def bare(model: torch.nn.Module, batch: list[Encoded]) -> None:
    ids, mask = padded(batch, "cpu")
    hidden = hidden_states(model, ids, mask).flatten(0, 1)
    for rows in hidden.split(1024):
        model.lm_head(rows)


def memory(what: str, samples: int, length: int, args: argparse.Namespace) -> float:
    """Megabytes, from a new process: what is freed here would be used again unseen."""
    shape = [f"--samples={samples}", f"--length={length}", f"--vocab={args.vocab}"]
    command = [sys.executable, __file__, f"--memory={what}", *shape]
    # Freed memory goes back at once, or the allocator's holes would be counted.
    held = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "131072"}
    env = {**os.environ, **held, "MALLOC_ARENA_MAX": "1"}
    return float(subprocess.run(command, capture_output=True, check=True, env=env).stdout)


def print_memory(args: argparse.Namespace) -> None:
    model = qwen3(args.vocab)
    scorer = Scorer(model, TOP_K, args.batch_size)
    scorer.score_batch(sequences(1, 16, args.vocab))  # loads compiled code
    batch = sequences(args.samples, args.length, args.vocab)
    hidden = torch.randn(args.length, 1024)
    targets = torch.randint(args.vocab, (args.length,))
    result = 0
    with PeakMemory() as peak, torch.inference_mode():
        if args.memory == "statistics":
            stats = scorer.head.stats(hidden, targets, TOP_K, "auto")
            result = sum(column.nbytes for column in stats.to_columns().values())
        else:
            for group in scorer.batches(batch):
                scorer.score_batch([batch[i] for i in group])
    print(round(peak.megabytes - result / 2**20, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--long", type=int, default=8192, help="length for the memory of one")
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", help="folder of a checkpoint; then no memory is measured")
    parser.add_argument("--memory", choices=("statistics", "probe"), help=argparse.SUPPRESS)
    args = parser.parse_args()

    torch.manual_seed(0)
    if args.memory:
        print_memory(args)
        return
    if args.model:
        mb, model = {}, load_model(args.model)
        batch = read_sequences(args.model, args.samples, args.length)
    else:
        lengths = args.length, args.long
        mb = {f"statistics of {n}": memory("statistics", 1, n, args) for n in lengths}
        mb["probe"] = memory("probe", args.samples, args.length, args)
        model = qwen3(args.vocab)
        batch = sequences(args.samples, args.length, args.vocab)
    scorer = Scorer(model, TOP_K, args.batch_size)
    groups = [[batch[i] for i in group] for group in scorer.batches(batch)]
    ms = medians(
        {
            "probe": lambda: [scorer.score_batch(group) for group in groups],
            "bare": lambda: [bare(model, group) for group in groups],
        },
        args.repeats,
    )
    ratio = ms["probe"] / ms["bare"]
    print(
        f"probe {ms['probe']:.0f} ms, bare forward {ms['bare']:.0f} ms: {ratio:.2f}x; extra {mb} MB"
    )
    print(json.dumps({
        "benchmark": "probe", "model": args.model, "samples": args.samples, "length": args.length,
        "vocab": args.vocab,
        "threads": torch.get_num_threads(), "ms": ms, "ratio": ratio, "mb": mb,
        "time": time.strftime("%Y-%m-%d"),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
