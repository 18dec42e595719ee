"""The command that samples and evaluates a whole grid: sweep."""

from pathlib import Path
from typing import Annotated

import typer

from ssd_probe.cli.options import AsJson, Config, Device, Unsandboxed, print_json


def sweep(
    grid: Annotated[Path, typer.Option(help="YAML: checkpoints, decoding, problems, n ...")],
    out: Annotated[Path, typer.Option(help="Folder to write; an interrupted sweep is resumed.")],
    processes: Annotated[
        int, typer.Option(min=1, help="Sample so many cells at once, for small models on CPUs.")
    ] = 1,
    device: Device = None,
    unsandboxed: Unsandboxed = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Sample and evaluate checkpoints x decoding settings; pass@k of each in OUT/sweep.csv.

    The grid is a YAML file. `problems` is `humaneval`, `basics`, `tiny` (the latter two with
    `:dev` or `:test`), or a LiveCodeBench .jsonl file; n, k, max_new_tokens, batch_size, seed,
    limit, style (of `sample`), timeout and workers may be given too:

    \b
      checkpoints:
        base: {model: tiny}
        ssd: {model: work/student, T_train: 1.6, top_k: 20, top_p: 0.8}
        rival: {model: tiny, policy: "two-stage(T_train=1.6, top_k=20, top_p=0.8)"}
      decoding: {temperature: [0.7, 1.0, 1.3], top_k: 20, top_p: 0.8}
      problems: tiny:test
      n: 10

    \b
    Examples:
      ssd-probe sweep --grid grid.yaml --out runs/sweep
      ssd-probe sweep --grid grid.yaml --out runs/sweep --processes 2 --json
    """
    from ssd_probe.commands.grid import read_grid

    declared = read_grid(grid)  # refused before the slow imports
    from ssd_probe.commands.sweep import TABLE, sweep_stage

    table = sweep_stage(declared, out, processes=processes, device=device, unsandboxed=unsandboxed)
    if as_json:
        print_json(table.to_dict("records"))
        return
    cells = len(declared.cells())
    best = table[table["group"] == "all"].sort_values("estimate").groupby(["model", "k"]).tail(1)
    for row in best.sort_values(["k", "model"]).itertuples():
        print(
            f"pass@{row.k} {row.model:<12} {row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}] at "
            f"its best: T {row.T_eval:g}, top-k {row.top_k_eval}, top-p {row.top_p_eval:g}"
        )
    print(f"{cells} cells in {out / TABLE}")
