"""The demo: the README's claims hold in direction; the run is whole, resumable, repeatable."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.commands import sweep
from ssd_probe.commands.loop.demo import demo_config, demo_stage
from ssd_probe.commands.pictures.figures import draw_figures
from ssd_probe.commands.run_folder import RunFolder
from ssd_probe.errors import UserError
from ssd_probe.files.reading import read_jsonl
from ssd_probe.views.story import tell

FIGURES = [
    "fig_2_pass1",
    "fig_4",
    "fig_4_bars",
    "fig_5",
    "fig_8",
    "fig_6a",
    "fig_6b",
    "fig_6c",
    "fig_6d",
]


def row(rows, **wanted):
    found = [r for r in rows if all(r[key] == value for key, value in wanted.items())]
    assert len(found) == 1, wanted
    return found[0]


large = pytest.mark.slow(reason="a gain in pass@k needs a run of minutes to show")


@pytest.mark.parametrize("statistic", ["entropy", "tail_mass"])
def test_locks_lose_their_tail(demo_run, statistic):
    change = row(demo_run[1]["comparison"], label=LOCK, statistic=statistic)
    assert change["high"] < 0


@pytest.mark.parametrize("statistic", ["head_entropy", "branching"])
def test_forks_keep_their_head(demo_run, statistic):
    change = row(demo_run[1]["comparison"], label=FORK, statistic=statistic)
    assert change["low"] > -0.02 * change["base"]


@large
@pytest.mark.parametrize(("group", "k"), [("all", 1), ("all", 5), ("hard", 5)])
def test_ssd_at_its_best_beats_the_base_at_its_best(full_demo_run, group, k):
    gain = row(full_demo_run[1]["differences"], model="ssd", group=group, k=k)
    assert gain["estimate"] > 0


@large
def test_ssd_beats_the_control(full_demo_run):
    gains = [
        row(full_demo_run[1]["differences"], model=m, group="all", k=5) for m in ("ssd", "control")
    ]
    assert gains[0]["estimate"] > gains[1]["estimate"]


def test_the_default_rule_finds_the_true_forks(demo_run):
    found = row(demo_run[1]["rule"], label=FORK)
    assert found["auc"] > 0.95 and found["precision"] > 0.9 and found["recall"] > 0.8


def test_every_position_of_a_noise_free_program_has_a_true_label(demo_run):
    kinds = {r["label"] for r in demo_run[1]["comparison"]}
    assert kinds == {"all", LOCK, FORK}


def test_the_run_folder_holds_what_the_readme_says(demo_run):
    out, summary, config, said = demo_run
    assert json.loads((out / "summary.json").read_text()) == summary
    for name in ("run.json", "checkpoint/model.safetensors", "probes/base", "probes/ssd"):
        assert (out / name).exists()
    for name in [f"{stem}.{end}" for stem in FIGURES for end in ("png", "pdf", "txt")]:
        assert (out / "figures" / name).stat().st_size
    assert "pass@5 hard" in said and "distractor tail" in said
    assert "locks (one right token)" in said  # here that is known; a rule only says what is likely
    by_rule = str(tell({key: summary[key] for key in summary if key != "rule"}, Path("run")))
    assert "locks (one likely token)" in by_rule and "forks (several likely tokens)" in by_rule
    assert max(map(len, str(tell(summary, Path("run"))).splitlines())) <= 100
    best = summary["best_temperature"]["ssd"]
    rows = read_jsonl(out / "evaluations/test/evaluations/ssd" / f"T{best}-k20-p0.8.jsonl")
    assert len(rows) == config.loop.test.limit * config.loop.test.n
    assert not any(r["verdict"] == "infra_error" for r in rows)


def test_a_second_run_reuses_everything(demo_run):
    out, summary, config, _ = demo_run
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")}
    again = demo_stage(out, config, lambda text: None)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")} == files
    assert again | {"seconds": 0} == summary | {"seconds": 0}


def test_figures_are_drawn_again_to_the_same_bytes(demo_run):
    out = demo_run[0]
    before = {path.name: path.read_bytes() for path in (out / "figures").iterdir()}
    draw_figures(out)
    assert {path.name: path.read_bytes() for path in (out / "figures").iterdir()} == before


def test_other_settings_and_foreign_folders_are_refused(demo_run, tmp_path):
    out, _, config, _ = demo_run
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        demo_stage(out, config._replace(loop=replace(config.loop, seed=1)))
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not a run"):
        demo_stage(tmp_path, config)
    with pytest.raises(UserError, match="not a run"):
        draw_figures(tmp_path)


def test_the_same_seed_repeats_and_a_stopped_run_goes_on_to_the_same_end(
    demo_run, tmp_path, monkeypatch
):
    out, first, config, _ = demo_run

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ssd_probe.commands.loop.positions.write_programs", stop)
        demo_stage(tmp_path, config)
    second = demo_stage(tmp_path, config, lambda text: None)
    assert second | {"seconds": 0} == first | {"seconds": 0}
    for path in out.rglob("*.jsonl"):
        if path.name != "metrics.jsonl":  # holds run times
            one, other = (each.read_bytes() for each in (path, tmp_path / path.relative_to(out)))
            if path.name == "verdicts.jsonl":  # in the order in which programs ended
                one, other = sorted(one.splitlines()), sorted(other.splitlines())
            assert one == other


def test_without_bubblewrap_only_programs_of_the_domains_language_run(tmp_path, monkeypatch):
    loop = demo_config(quick=True, dev={"limit": 6, "n": 2}, T_eval=[1.0]).loop
    folder = RunFolder(tmp_path, loop)
    grid, plain, canary = (
        folder.grid(loop.dev, {"base": None}),
        sweep.read_jsonl,
        tmp_path / "canary",
    )

    def with_a_hostile_one(path):
        rows = plain(path)
        if path.parent.parent.name != "samples":
            return rows
        return [rows[0] | {"completion": f"open({str(canary)!r}, 'w')"}, *rows[1:]]

    monkeypatch.setattr(sweep, "obstacle", lambda: "no bubblewrap here")
    monkeypatch.setattr(sweep, "read_jsonl", with_a_hostile_one)
    sweep.sweep_stage(grid, folder.trial_folder("dev"), harmless=True)
    (cell,) = sweep.cells_of(grid, folder.trial_folder("dev"))
    verdicts = sweep.verdicts(cell)["verdict"]
    assert verdicts[0] == "error" and not canary.exists()
    assert "pass" in set(verdicts) and "infra_error" not in set(verdicts)
    with pytest.raises(UserError, match="cannot be isolated"):  # a plain sweep is not harmless
        monkeypatch.setattr("ssd_probe.execution.sandbox.obstacle", lambda: "no bubblewrap here")
        sweep.sweep_stage(grid, tmp_path / "plain")
