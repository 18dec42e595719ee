"""vLLM offline, in an environment and a process of its own, which wants other transformers.

SSD_PROBE_VLLM names that environment's folder, or its python. Several processes, as for data
parallelism, are shards; tensor and pipeline parallelism are vLLM's own arguments.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from ssd_probe.core.requests import Answers, Drawn, Request
from ssd_probe.core.streams import seed_of
from ssd_probe.decoding import Decoding, Policy
from ssd_probe.engines.dialects import Reply, token_id
from ssd_probe.engines.replies import drawn_of
from ssd_probe.errors import Failed, Resumable, UserError
from ssd_probe.models.checkpoints import resolve_model, skeleton
from ssd_probe.models.identity import Checkpoint
from ssd_probe.models.limits import Limits
from ssd_probe.policies.parsing import message_of
from ssd_probe.policies.rivals import Rival

PLACE = "SSD_PROBE_VLLM"
WORKER = Path(__file__).with_name("vllm_worker.py")
PACKAGE = Path(__file__).parents[1]
MASK = "return_sampling_mask"  # vLLM's argument
MANY = 128  # answers of one request of `draws`
PATIENCE = 15.0  # seconds for vLLM's processes to end by themselves


class Vllm:
    """The engine; `arguments`: "NAME=VALUE" of vLLM's `LLM`. `window`: requests under way.

    The weights are loaded in the checkpoint's own dtype unless an argument says another.
    """

    name = "vllm"

    def __init__(
        self, checkpoint: Checkpoint, arguments: Sequence[str] = (), *, window: int = 64
    ) -> None:
        self.checkpoint, self.window = checkpoint, window
        self.arguments = dict(map(_argument, arguments))
        self._worker: Worker | None = None

    @property
    def limits(self) -> Limits:
        return self.checkpoint.limits

    @property
    def tells(self) -> bool:
        """Whether vLLM was asked to tell each token's support."""
        return bool(self.arguments.get(MASK))

    def settings(self) -> dict[str, Any]:
        said = {"engine_arguments": self.arguments} if self.arguments else {}
        return {"engine": self.name, **said}

    def about(self, policy: Policy) -> dict[str, Any]:
        version = f"vllm {self._at_work(policy).version}"
        order = policy.to_dict()["order"]
        return {"engine": self.name, "engine_version": version, "order": order}

    def found(self) -> dict[str, Any]:
        return {"environment": str(python_of())}

    def _at_work(self, policy: Policy) -> "Worker":
        """vLLM, loaded anew where the last policy was a rival and this is none, or the reverse."""
        rivals = isinstance(policy, Rival)
        if rivals and self.tells:
            raise UserError(f"--engine-arg {MASK}: not with --policy, which vLLM's V1 runner draws")
        if self._worker is not None and (self._worker.rivals != rivals or self._worker.closed):
            self.close()
        if self._worker is None:
            model = skeleton(self.checkpoint.name)
            dtype = str(model.config.dtype or "float32").removeprefix("torch.")
            also = {"logprobs_mode": "processed_logprobs"} if self.tells else {}  # it wants it so
            said = {
                "model": str(resolve_model(self.checkpoint.name)),
                "arguments": {"dtype": dtype, **also, **self.arguments},
                "window": self.window,
            }
            self._worker = Worker(python_of(), said, policy if isinstance(policy, Rival) else None)
        return self._worker

    def answers(self, requests: Mapping[int, Request], policy: Policy, seed: int | None) -> Answers:
        def lines() -> Iterator[dict[str, Any]]:
            for place, request in requests.items():
                own = None if seed is None else seed_of(seed, request.name, request.index)
                params = self._params(policy, request.room, own) | {"stop": list(request.stop)}
                params["detokenize"] = bool(request.stop)
                yield {"place": place, "ids": list(request.ids), "params": params}

        for place, replies in self._at_work(policy).ask(lines(), len(requests)):
            yield {place: self._drawn(requests[place], replies[0])}

    def draws(self, ids: Sequence[int], count: int, policy: Policy, seed: int | None) -> list[int]:
        """`count` first tokens after `ids`, many a request: vLLM gives each a seed of its own."""
        starts = range(0, count, MANY)

        def lines() -> Iterator[dict[str, Any]]:
            for place, start in enumerate(starts):
                own = None if seed is None else seed_of(seed, "draws", place)
                params = self._params(policy, 1, own) | {"n": min(MANY, count - start)}
                yield {"place": place, "ids": list(ids), "params": params}

        request = Request("draws", 0, ids, 1)
        found = dict(self._at_work(policy).ask(lines(), len(starts)))
        given = (reply for place in range(len(starts)) for reply in found[place])
        return [self._drawn(request, reply).ids[0] for reply in given]

    def support(self, ids: Sequence[int], policy: Policy) -> list[int] | None:
        """Of the first token after `ids`; None where vLLM was not asked to tell, or does not."""
        if not self.tells:
            return None
        line = {"place": 0, "ids": list(ids), "params": self._params(policy, 1, None)}
        return dict(self._at_work(policy).ask(iter([line]), 1))[0][0].support

    def _params(self, policy: Policy, room: int, seed: int | None) -> dict[str, Any]:
        decoding = policy if isinstance(policy, Decoding) else Decoding()
        if self.tells and (decoding.is_greedy or not decoding.top_k):
            raise UserError(f"--engine-arg {MASK}: not at {policy}: T, top-k must be above 0")
        return {
            "max_tokens": room,
            "temperature": 0.0 if decoding.is_greedy else decoding.temperature,
            "top_k": decoding.top_k,
            "top_p": decoding.top_p,
            "extra_args": message_of(policy) if isinstance(policy, Rival) else None,
            "min_p": 0.0,
            "seed": seed,
            "stop_token_ids": sorted(self.limits.stops),
            "include_stop_str_in_output": True,
            "detokenize": False,
        }

    def _drawn(self, request: Request, reply: Reply) -> Drawn:
        return drawn_of(request, reply, self.limits, self.checkpoint.tokenizer)

    def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


class Worker:
    """The process with vLLM in it, which ends with this one. `Failed` where it does not start.

    `rival`: the first of those that `vllm_policies` is to draw by. It finds this package, and no
    other of this environment, in a folder of its own; the model runner is vLLM's first, V1.
    """

    def __init__(self, python: Path, said: dict[str, Any], rival: Rival | None = None) -> None:
        self.rivals, self.own, self.closed = rival is not None, ExitStack(), False
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (while it runs)
        env = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        if rival is not None:
            folder = tempfile.TemporaryDirectory(prefix="ssd-probe-", ignore_cleanup_errors=True)
            link = Path(self.own.enter_context(folder), PACKAGE.name)
            link.symlink_to(PACKAGE)
            env["VLLM_USE_V2_MODEL_RUNNER"] = "0"
            said = said | {"rivals": {"link": str(link), "policy": message_of(rival)}}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        # Isolated: the folder of the script holds a vllm.py, which is not the one to import.
        self.process = subprocess.Popen(
            [str(python), "-I", str(WORKER)],
            **pipes,
            stderr=self.log,
            text=True,
            env=env,
            start_new_session=True,  # its processes are one group, which Ctrl-C leaves to us
        )
        try:
            self._send([said])
            if (first := self._line()) is None:
                raise Failed(f"vLLM did not start: {self._last_words()}")
        except BaseException:  # also Ctrl-C: loading takes minutes
            self.close()
            raise
        self.version = first["version"]

    def ask(self, lines: Iterator[dict], count: int) -> Iterator[tuple[int, list[Reply]]]:
        """Each request's replies as they come. `Resumable` where the process ends before.

        Where fewer are taken, others are under way still, which would be taken for the next ones':
        the process is closed, and cannot be asked again.
        """
        threading.Thread(target=self._send, args=(lines,), daemon=True).start()
        left = count
        try:
            while left:
                found = self._line()
                if found is None:
                    raise Resumable(
                        f"vLLM ended in the middle ({self._last_words()}); what came is kept, and "
                        "the same command goes on"
                    )
                left -= 1
                yield found["place"], list(map(_reply, found["answers"]))
        finally:
            if left:
                self.close()

    def _send(self, lines: Any) -> None:
        stdin: IO[str] = self.process.stdin  # type: ignore[assignment]
        try:
            for line in lines:
                stdin.write(json.dumps(line) + "\n")
            stdin.flush()
        except (BrokenPipeError, ValueError):  # it is gone, which the reader says
            pass

    def _line(self) -> dict[str, Any] | None:
        stdout: IO[str] = self.process.stdout  # type: ignore[assignment]
        line = stdout.readline()
        return json.loads(line) if line.endswith("\n") else None

    def close(self) -> None:
        """Ends vLLM, in the middle of answers too: then a pipe is full, and closing it waits."""
        if self.closed:
            return
        self.closed = True
        self.process.terminate()
        self._wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]
        self.log.close()
        self.own.close()

    def _wait(self) -> None:
        """Until the process has ended; those of vLLM's own that outlive it are killed."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _last_words(self) -> str:
        """The error behind what vLLM said last, and the file with all that it said."""
        self._wait()
        self.log.seek(0)
        said = self.log.read()
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line and "EngineDead" not in line]
        with tempfile.NamedTemporaryFile(
            "w", prefix="vllm-", suffix=".log", delete=False, encoding="utf-8"
        ) as kept:
            kept.write(said)
        return f"{(errors or lines or ['no reason given'])[-1][-300:]}; all it said: {kept.name}"


def python_of() -> Path:
    """The python that has vLLM; `UserError` where none is named."""
    place = os.environ.get(PLACE)
    if place is None:
        if importlib.util.find_spec("vllm") is None:
            raise UserError(
                f"--engine vllm: set {PLACE} to the folder of an environment with vLLM in it "
                "(python -m venv ..., pip install vllm)"
            )
        return Path(sys.executable)
    path = Path(place).expanduser()
    python = path / "bin" / "python" if path.is_dir() else path
    if not python.is_file():
        raise UserError(f"{PLACE}={place}: no python there, and no environment")
    return python.absolute()


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UserError(f"--engine-arg {text}: must be NAME=VALUE, as tensor_parallel_size=2")
    if name == "data_parallel_size":
        raise UserError(f"--engine-arg {text}: give each process a share, with --shard i/n")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _reply(answer: dict[str, Any]) -> Reply:
    matched = token_id(answer["matched"])
    return Reply(answer["ids"], "", answer["reason"], matched, answer["support"])
