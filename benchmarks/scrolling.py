"""The token viewer with many tokens in a real browser: until it is open, and a frame's scrolling.

    python benchmarks/scrolling.py                              # 100,000 tokens, this tree
    python benchmarks/scrolling.py --against ../other           # and another tree's viewer, in turn
    python benchmarks/scrolling.py --probe probes/smollm2       # rows of a probe, repeated

The text is made up, or a probe's first rows repeated. The page is opened by Chromium without a
window, and scrolled by 400 px a frame for 200 frames: `frame` is from one to the next by the clock,
`frame95` its 95th percentile; `cpu` is the processor time that the page's main thread takes for a
frame (DevTools' TaskDuration: code, style, layout, paint), and `script`, `style` and `layout` are
parts of it. A frame at 60 Hz has 16.7 ms. `open` is by the clock until the first token is there;
`open_cpu` is what all processes of Chromium take of the processor for it, which other programs on
the machine hardly change. Trees are visited in turn. Medians over visits. The last line is JSON.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCROLL = """async () => {
  const box = document.querySelector(".lines"), times = [];
  const frame = () => new Promise(requestAnimationFrame);
  await frame();
  let last = performance.now();
  for (let i = 0; i < FRAMES; i++) {
    box.scrollTop += 400;
    await frame();
    const now = performance.now();
    times.push(now - last);
    last = now;
  }
  return times;
}"""
FRAMES, WINDOW = 200, {"width": 1280, "height": 800}
OPEN = """() => new Promise((done) => {
  const there = () => document.querySelector(".token");
  const look = () => (there() ? done(performance.now()) : setTimeout(look, 5));
  look();
})"""


def write(path: Path, tokens: int, probe: Path | None) -> None:
    """The page of one text of so many tokens, by the viewer of the tree that is imported."""
    import numpy as np
    import pandas as pd

    from ssd_probe.analysis.labels import SupportRule
    from ssd_probe.views.blocks import Names, Text, texts_of
    from ssd_probe.views.page import About, write_page

    if probe is None:
        rows = made_up(2000)
    else:
        from ssd_probe.probing.table import Probe

        rows = pd.concat(text.frame for text in texts_of(Probe.load(probe), None))
    frame = pd.concat([rows] * -(-tokens // len(rows)), ignore_index=True).iloc[:tokens]
    frame = frame.assign(sample_id="long", problem_id="long", position=np.arange(tokens))
    vocabulary = int(frame["token_id"].max()) + 1
    about = About("long", ["base"], vocabulary, SupportRule(), [], [])
    write_page(path, [Text("long", "long", frame, None)], about, Names(), 20)


def made_up(count: int):
    """Rows from sharp to flat distributions over 150 tokens, nine to a line."""
    import numpy as np
    import pandas as pd
    import torch

    from ssd_probe.kernels.stats import position_stats

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, 150)) * rng.choice(np.geomspace(0.3, 30, 50), (count, 1))
    ids = rng.integers(150, size=count)
    stats = position_stats(torch.tensor(logits, dtype=torch.float32), top_k=24,
                           targets=torch.tensor(ids))  # fmt: skip
    columns = {name: list(values) for name, values in stats.to_columns().items()}
    tokens = [f" w{i}\n" if n % 9 == 8 else f" w{i}" for n, i in enumerate(ids)]
    return pd.DataFrame(columns).rename(
        columns={"target_logprob": "logprob", "target_rank": "rank"}
    ).assign(token_id=ids, token=tokens, segment="code", syntax="Name")  # fmt: skip


def visit(browser, path: Path) -> dict[str, float]:
    """Milliseconds of one visit."""
    page, system = browser.new_page(viewport=WINDOW), browser.new_browser_cdp_session()
    used = cpu_time(system)
    page.goto(path.as_uri(), wait_until="commit")
    found = {"open": page.evaluate(OPEN)}
    found["open_cpu"] = 1e3 * (cpu_time(system) - used)
    cdp = page.context.new_cdp_session(page)
    cdp.send("Performance.enable", {"timeDomain": "threadTicks"})  # not while others run
    before = metrics(cdp)
    times = page.evaluate(SCROLL.replace("FRAMES", str(FRAMES)))
    after = metrics(cdp)
    page.close()
    for name, metric in (("script", "ScriptDuration"), ("style", "RecalcStyleDuration"),
                         ("layout", "LayoutDuration"), ("cpu", "TaskDuration")):  # fmt: skip
        found[name] = 1e3 * (after[metric] - before[metric]) / FRAMES
    times.sort()
    return found | {"frame": statistics.median(times), "frame95": times[int(0.95 * FRAMES)]}


def cpu_time(system) -> float:
    """Seconds of the processor that the browser's processes have taken."""
    found = system.send("SystemInfo.getProcessInfo")["processInfo"]
    return sum(each["cpuTime"] for each in found)


def metrics(cdp) -> dict[str, float]:
    return {each["name"]: each["value"] for each in cdp.send("Performance.getMetrics")["metrics"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--probe", type=Path)
    parser.add_argument("--against", type=Path, help="another tree of this project")
    parser.add_argument("--visits", type=int, default=5)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        return write(args.write, args.tokens, args.probe)
    from playwright.sync_api import sync_playwright

    trees = {"this": ROOT} | ({"other": args.against.resolve()} if args.against else {})
    with tempfile.TemporaryDirectory() as folder:
        for name, tree in trees.items():
            probe = ["--probe", str(args.probe.resolve())] if args.probe else []
            subprocess.run(
                [sys.executable, __file__, "--write", f"{folder}/{name}.html",
                 "--tokens", str(args.tokens), *probe],
                check=True, env=os.environ | {"PYTHONPATH": str(tree)}, cwd=tree,
            )  # fmt: skip
        visits: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("chromium-browser")
            flags = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=chromium, args=flags)
            for _ in range(args.visits):
                for name in trees:
                    visits[name].append(visit(browser, Path(folder) / f"{name}.html"))
            browser.close()
    ms = {name: {key: statistics.median(each[key] for each in found) for key in found[0]}
          for name, found in visits.items()}  # fmt: skip
    for name, found in ms.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.1f}" for key, value in found.items()) + " ms")
    print(json.dumps({
        "benchmark": "scrolling", "tokens": args.tokens, "ms": ms, "load": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%d"),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
