"""Time and memory of `lm_head_stats` against materialising all logits and then good eager.

    python benchmarks/lm_head.py --rows 256 --width 1024 --vocab 151936

Peak memory is what the process grew by during the call (Linux). The last line is JSON.
"""

import argparse
import json

import torch
from position_stats import eager, refuse_if_wrong
from timing import PeakMemory, medians

from ssd_probe.kernels.head import lm_head_stats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256, help="N, positions")
    parser.add_argument("--width", type=int, default=1024, help="D, hidden width")
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    torch.manual_seed(0)
    hidden = torch.randn(args.rows, args.width)
    weight = 0.1 * torch.randn(args.vocab, args.width)
    # Products of small integers are exact, so the ids can be compared.
    exact = hidden[:4].round(), (10 * weight).round()
    refuse_if_wrong(exact[0] @ exact[1].T, lm_head_stats(*exact))
    del exact

    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        h, w = hidden.to(dtype), weight.to(dtype)
        methods = {
            "ours": lambda h=h, w=w: lm_head_stats(h, w),
            "materialised": lambda h=h, w=w: eager(h @ w.T),
        }
        ms = medians(methods, args.repeats if dtype == torch.float32 else 1)
        memory = {}
        for name, method in methods.items():
            with PeakMemory() as peak:
                method()
            memory[name] = round(peak.megabytes)
        more = torch.cat([h] * 8)
        with PeakMemory() as peak:
            lm_head_stats(more, w)
        memory["ours, 8 N"] = round(peak.megabytes)
        ratio = ms["ours"] / ms["materialised"]
        results[str(dtype)] = {"ms": ms, "ratio": ratio, "extra_mb": memory}
        print(f"{dtype}: {ms['ours']:.0f} ms, materialised {ms['materialised']:.0f} ms: "
              f"{ratio:.2f}x the time; extra MB {memory}", flush=True)  # fmt: skip
    print(json.dumps({"benchmark": "lm_head", **vars(args), "threads": torch.get_num_threads(),
                      "results": results}))  # fmt: skip


if __name__ == "__main__":
    main()
