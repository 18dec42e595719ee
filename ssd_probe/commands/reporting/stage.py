"""`ssd-probe report`: a run, a comparison or a probe in, one HTML file out."""

from pathlib import Path

from ssd_probe.commands.compare import COMPARISON
from ssd_probe.errors import UserError

MOST = 10_000  # positions in the viewer


def report_stage(source: Path, out: Path | None = None, positions: int = MOST) -> list[str]:
    """Write the report of a folder, by default SOURCE/report.html; the lines to print.

    positions: shown in the token viewer at most; 0: no viewer. `UserError` for a folder of another
    kind, or a target that is a folder.
    """
    from ssd_probe.commands.reporting import comparison, probe, run
    from ssd_probe.commands.reporting.tokens import RANKS
    from ssd_probe.commands.run_folder import as_written
    from ssd_probe.views.page import Around, page_file, write_page, write_plain
    from ssd_probe.views.report.render import render, style

    target = page_file(out or source / "report.html")
    makers = {"probe.json": probe.of_probe, COMPARISON: comparison.of_comparison,
              "run.json": run.of_run}  # fmt: skip
    record = next((name for name in makers if (source / name).is_file()), None)
    if record is None:
        raise UserError(
            f"{source}: no run, comparison or probe; give a folder of `ssd-probe run`, `compare "
            "--out` or `probe`"
        )
    with as_written(source / record):
        report, tokens = makers[record](source, positions)
        shown = tokens is not None and positions > 0
        body = render(report, tokens.told if tokens and shown else None)
    around = Around(body, style(), "; img-src data:")
    if tokens and shown:
        write_page(target, tokens.texts, tokens.about, tokens.names, RANKS, around)
    else:
        write_plain(target, report.title, around)
    lines = [f"{target}, {target.stat().st_size / 1e6:.1f} MB: open it in a browser"]
    if tokens and shown:
        lines.append(f"with every token of {tokens.told}")
    return [*report.answers, *lines]
