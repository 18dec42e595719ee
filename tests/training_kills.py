"""Kill trainings at random times until they end: `python -m tests.training_kills FOLDER KILLS`.

One warm process forks a child for each attempt. FOLDER/whole is never disturbed, FOLDER/killed is
until there were KILLS; then it may end. Prints at how many steps it was killed.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ssd_probe.core.config import TrainConfig
from ssd_probe.core.train import train
from tests.models import tiny_tokenizer

CONFIG = TrainConfig(
    learning_rate=1e-3, epochs=10, batch_size=4, gradient_accumulation=2, save_steps=2
)


def make(folder: Path) -> None:
    """A model with dropout, so that every random number counts."""
    config = GPT2Config(vocab_size=507, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    config.bos_token_id = config.eos_token_id = 2
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    rows = [
        {"prompt_ids": torch.randint(3, 380, (3,)).tolist(),
         "completion_ids": torch.randint(3, 380, (5 + i,)).tolist()}
        for i in range(44)
    ]  # fmt: skip
    train(model, tiny_tokenizer(), rows, CONFIG, folder)


def attempt(folder: Path) -> int:
    """Start a training in a child; its process id."""
    if pid := os.fork():
        return pid
    try:
        make(folder)
        os._exit(0)
    finally:
        os._exit(1)


def newest(folder: Path) -> int:
    """The step of the newest checkpoint, whole or not."""
    names = [p.name.rpartition("-")[2] for p in (folder / "trainer").glob("checkpoint-*")]
    return max(map(int, names), default=0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    base, wanted = Path(sys.argv[1]), int(sys.argv[2])
    make(base / "whole")
    killed: list[int] = []
    while True:
        pid, before = attempt(base / "killed"), newest(base / "killed")
        while len(killed) < wanted and newest(base / "killed") <= before:
            done, status = os.waitpid(pid, os.WNOHANG)
            assert not done, f"ended by itself with {status}"
            time.sleep(0.001)
        if len(killed) == wanted:
            assert os.waitpid(pid, 0)[1] == 0
            break
        time.sleep(random.choice([0, random.uniform(0, 0.2)]))  # at once: while it is written
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        killed.append(newest(base / "killed"))
    print(killed)
