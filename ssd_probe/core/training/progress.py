"""What is told while a model is trained: a line of metrics.jsonl a log entry, and a bar."""

import json
from pathlib import Path

from tqdm import tqdm
from transformers import TrainerCallback

from ssd_probe.files.writing import strict_json, write_jsonl


class Metrics(TrainerCallback):
    """One JSON line a log entry as it happens, and a progress bar."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if state.is_world_process_zero:
            self._forget_after(state.global_step)
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=f"training {self.path.parent.name}",
            disable=None if state.is_world_process_zero else True,
        )

    def _forget_after(self, step: int) -> None:
        """Of an interrupted training, keep what was logged up to its checkpoint."""
        rows = _whole_lines(self.path) if step and self.path.is_file() else []
        write_jsonl(self.path, [row for row in rows if row["step"] <= step])

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = logs or {}
        if "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.4f}")
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(strict_json({"step": state.global_step, **logs}) + "\n")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


def _whole_lines(path: Path) -> list[dict]:
    """The rows of a file whose last line a kill may have cut."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
