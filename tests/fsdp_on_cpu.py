"""`ssd-probe` under accelerate's FSDP2 on CPUs: `torchrun -m tests.fsdp_on_cpu train ...`.

accelerate shards on GPUs and their like alone; on CPUs it falls back to copies, in silence. Here it
takes the processes for such, and everything else is its own: gloo, `fully_shard` on CPU tensors.
With PEAK set, each process writes its peak of memory, beyond what importing takes, to PEAK.RANK.
"""

import os
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from ssd_probe.cli.app import main

SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
_made = AcceleratorState.__init__


def _as_gpus(self, *arguments, **kwargs):
    PartialState(cpu=True)
    sharded = os.environ.get("ACCELERATE_USE_FSDP") and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if sharded and not AcceleratorState._shared_state:  # once: it is FSDP afterwards
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    _made(self, *arguments, **kwargs)


def peak() -> int:
    """Bytes; `ru_maxrss` begins with what the process that started this one had."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    torch.set_num_threads(1)
    AcceleratorState.__init__ = _as_gpus
    import ssd_probe.commands.train  # noqa: F401 (what importing takes)
    import ssd_probe.core.train  # noqa: F401

    before = peak()
    sys.argv[0] = "ssd-probe"
    try:
        main()
    finally:
        if file := os.environ.get("PEAK"):
            Path(f"{file}.{os.environ.get('RANK', '0')}").write_text(str(peak() - before))
