"""vLLM's server of a checkpoint on the loopback, which can be killed and started again."""

import os
import signal
import socket
import subprocess
import time

from ssd_probe.engines.vllm import python_of

# One process computes, and there is no third one between: loads in half the time.
LEAN = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def free_port():
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def listening(port):
    with socket.socket() as asked:
        asked.settimeout(1)
        return asked.connect_ex(("127.0.0.1", port)) == 0


class VllmServer:
    """`vllm serve` itself asks for a package named vllm, which vllm-cpu is not: its module."""

    def __init__(self, model, log):
        self.port, self.log, self.process = free_port(), log, None
        self.command = [str(python_of()), "-m", "vllm.entrypoints.openai.api_server"]
        self.command += ["--model", str(model), "--served-model-name", "tiny"]
        self.command += ["--dtype", "float32", "--enforce-eager", "--block-size", "32"]
        self.command += ["--no-enable-chunked-prefill"]  # see engines/vllm_worker.py
        self.command += ["--host", "127.0.0.1", "--port", str(self.port)]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self, seconds=900):
        about = {"env": {**os.environ, **LEAN}, "start_new_session": True}
        with self.log.open("ab") as words:
            self.process = subprocess.Popen(self.command, stdout=words, stderr=words, **about)
        end = time.monotonic() + seconds
        while not listening(self.port):
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(self.log.read_text()[-2000:])
            time.sleep(0.2)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)  # with the process that computes
        self.process.wait()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()
