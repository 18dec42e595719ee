"""Going on after a kill, exactly: the last whole checkpoint, and the order of its epoch."""

import json
from pathlib import Path

import torch
from transformers import TrainerCallback

from ssd_probe.files.writing import atomic_path

STATE = "trainer_state.json"  # which the Trainer writes last
ORDER = "epoch_rng_{}.pt"  # of each process, which `EpochOrder` writes after that


def last_whole(work: Path, processes: int = 1) -> Path | None:
    """The newest checkpoint in `work` that was written to its end; None where there is none."""
    found = [path for path in work.glob("checkpoint-*") if _is_whole(path, processes)]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _is_whole(path: Path, processes: int) -> bool:
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    ends = (path / ORDER.format(rank) for rank in range(processes))
    return "global_step" in state and all(file.is_file() for file in ends)


class EpochOrder(TrainerCallback):
    """A resumed epoch has the order that it began with.

    The Trainer's sampler by length draws it from torch's own random numbers at the epoch's start,
    and a checkpoint has only those of its own step: from the second epoch on, a resumed training
    saw other batches. So the state at the epoch's start is kept in the checkpoint, too: at an
    epoch's end that at the start of the next.
    """

    def __init__(self, resumed: Path | None, rank: int):
        self.resumed, self.name = resumed, ORDER.format(rank)

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.resumed:
            torch.set_rng_state(torch.load(self.resumed / self.name, weights_only=True))
        self.resumed, self.began = None, torch.get_rng_state()

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        began = torch.get_rng_state() if state.epoch == int(state.epoch) else self.began
        with atomic_path(folder / self.name) as temporary:
            torch.save(began, temporary)
