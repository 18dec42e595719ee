"""Step 3: T_eval and the main arm chosen on dev problems, then all models on the test problems."""

from typing import Any

import pandas as pd

from ssd_probe.analysis.labels import SupportRule
from ssd_probe.analysis.passk import paired_difference, pass_curves, pass_table
from ssd_probe.commands.loop.declaration import BASE, BASELINE, ON_DEV
from ssd_probe.commands.predict import Limits, Question, predict_stage
from ssd_probe.commands.run_folder import CHOICE, RunFolder, text_words
from ssd_probe.commands.sampling.answers import answer_lengths
from ssd_probe.commands.sweep import Cell, cells_of, sweep_stage, verdicts
from ssd_probe.core.lanes import Run
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.writing import write_json
from ssd_probe.policies.parsing import own_decoding, policy_of
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.probing.probe import probe
from ssd_probe.problems.texts import read_texts
from ssd_probe.views.doubts import at_the_end, collect, few_problems, own_difficulty


def choose_on_dev(folder: RunFolder, run: Run, unsandboxed: bool) -> dict[str, Any]:
    """Sweep T_eval on dev; the main arm and each model's T_eval, also in choice.json.

    Each model's T_eval is that of its highest pass@1, and so is the main arm's among the arms that
    are no controls; the lower T_eval and the first arm at ties. Then the same for the rivals.
    """
    loop, rivals = folder.loop, [rival.name for rival in folder.loop.rivals]
    if loop.dev is None:
        chosen = dict.fromkeys([*folder.first_models(), *rivals], loop.T_eval[0])
        if loop.baseline is not None:  # then that is all that the base is tested at
            chosen[BASE] = loop.baseline.temperature
        main, rows, doubts = loop.candidates[0].name, [], []
    else:
        curves = _swept_dev(folder, None, run, unsandboxed)
        scores = _best(curves)["estimate"]
        main = max((arm.name for arm in loop.candidates), key=lambda name: scores[name])
        if rivals:  # of which two-stage has the main arm's training decoding
            curves = _swept_dev(folder, main, run, unsandboxed)
        best, rows = _best(curves)["temperature"], curves.to_dict("records")
        chosen = {name: float(best[name]) for name in [*folder.first_models(), *rivals]}
        at_best = [
            verdicts(cell) for name in (BASE, main) for cell in folder.dev_cells()
            if (cell.trained.name, cell.decoding.temperature) == (name, chosen[name])
        ]  # fmt: skip
        gain = paired_difference(at_best[0], at_best[1], (1,), by=None).iloc[0]
        doubts = collect(
            few_problems("dev", int(gain["problems"]), gain["low"], gain["high"]),
            at_the_end(chosen, loop.T_eval),
        )
    choice = {"main": main, "T_eval": chosen, "dev": rows, "doubts": doubts}
    write_json(folder.out / CHOICE, choice)
    return choice


def _swept_dev(folder: RunFolder, main: str | None, run: Run, unsandboxed: bool) -> pd.DataFrame:
    """pass@1 of each model and T_eval on the dev problems; with the rivals of a main arm."""
    _sweep(folder, folder.dev_grid(main), "dev", run, unsandboxed)
    return pass_curves(pd.concat(map(verdicts, folder.dev_cells(main))), ks=(1,), by=None)


def _best(curves: pd.DataFrame) -> pd.DataFrame:
    """Of each model (the index) its row of most pass@1."""
    return curves.loc[curves.groupby("model")["estimate"].idxmax()].set_index("model")


def predict_before_test(folder: RunFolder, choice: dict) -> list[str]:
    """What training at each arm's setting could do, by `predict` from the base's dev answers."""
    loop = folder.loop
    answers = next(
        cell for cell in folder.dev_cells()
        if cell.trained.name == BASE and cell.decoding.temperature == choice["T_eval"][BASE]
    )  # fmt: skip
    out = folder.out / "probes" / ON_DEV
    config = ProbeConfig(batch_size=loop.probe_batch_size)
    probe(loop.model, read_texts([answers.samples], loop.text_limit), out, config)
    trains = list(dict.fromkeys(arm.decoding for arm in loop.candidates if arm.decoding))
    asked = Question(trains, list(loop.eval_decodings), Limits(), SupportRule())
    try:
        answer = predict_stage(out, None, asked)
    except UserError as error:  # too few ranks or no forks: the choice does not hang on it
        return [f"no prediction: {error}"]
    write_json(folder.out / "prediction.json", answer.to_dict())
    found = answer.told()
    return [*found.sentences, "", *"\n\n".join(found.tables).splitlines()]


def prediction_checked(folder: RunFolder, main: str) -> list[str]:
    """How far the prediction is from the trained main arm, on the first probed text."""
    text, trained = folder.loop.texts[0], folder.loop.arm(main).decoding
    if trained is None:
        return []
    asked = Question([trained], list(folder.loop.eval_decodings), Limits(), SupportRule())
    try:
        answer = predict_stage(folder.probe(BASE, text), folder.probe(main, text), asked)
    except UserError as error:
        return [f"{main} cannot be held against its prediction: {error}"]
    return [f"Of {main}, on {text_words(folder, text)}: {answer.told().sentences[-1]}"]


def students_to_test(folder: RunFolder, main: str) -> dict[str, tuple[str, Decoding | None]]:
    """Of every model to test the arm's name (for its T_eval) and its training decoding."""
    loop = folder.loop
    found: dict[str, tuple[str, Decoding | None]] = {BASE: (BASE, None)}
    for arm in loop.arms:
        found[arm.name] = arm.name, arm.decoding
    for seed in loop.more_seeds:
        for arm in loop.repeated(main):
            found[loop.student(arm.name, seed)] = arm.name, arm.decoding
    return found


def test_cells(folder: RunFolder, choice: dict) -> tuple[Any, dict[str, list[Cell]]]:
    """The test's sweep, and its cells by model: each at its T_eval, the base at `baseline` too."""
    loop, models = folder.loop, students_to_test(folder, choice["main"])
    at: dict[str, list[Decoding]] = {}
    for name, (arm, _) in models.items():
        own = Decoding(choice["T_eval"][arm], loop.top_k_eval, loop.top_p_eval)
        at[name] = [own]
        if name == BASE and loop.baseline is not None:
            # Without dev problems the baseline is all that the base is tested at.
            at[name] = [loop.baseline] if loop.dev is None else [own, loop.baseline]
    trained = {name: decoding for name, (_, decoding) in models.items()}
    rivals = folder.rivals(choice["main"])
    for name, policy in rivals.items():
        trained[name] = None
        shared = Decoding(choice["T_eval"][name], loop.top_k_eval, loop.top_p_eval)
        at[name] = [own_decoding(policy, shared)]
    grid = folder.grid(loop.test, trained, at, rivals)
    cells: dict[str, list[Cell]] = {name: [] for name in trained}
    for cell in cells_of(grid, folder.trial_folder("test")):
        cells[cell.trained.name].append(cell)
    return grid, cells


def run_test(folder: RunFolder, choice: dict, run: Run, unsandboxed: bool) -> dict[str, Any]:
    """pass@k of every model on the test problems, its difference to the base's, the main arm's to
    each rival's."""
    grid, cells = test_cells(folder, choice)
    _sweep(folder, grid, "test", run, unsandboxed)
    ks = folder.loop.test.ks
    tested = {name: verdicts(found[0]) for name, found in cells.items()}
    tables = [pass_table(frame, ks).assign(model=name) for name, frame in tested.items()]
    if len(cells[BASE]) > 1:
        tables.append(pass_table(verdicts(cells[BASE][1]), ks).assign(model=BASELINE))
    differences = pd.concat(
        paired_difference(tested[BASE], tested[name], ks).assign(model=name)
        for name in tested if name != BASE
    )  # fmt: skip
    beyond = [
        paired_difference(tested[name], tested[choice["main"]], ks).assign(rival=name)
        for name in folder.rivals(choice["main"])
    ]
    main = choice["main"]
    over = [
        paired_difference(tested[arm.name], tested[main], ks).assign(model=main, over=arm.name)
        for arm in folder.loop.arms if arm.is_control
    ]  # fmt: skip
    every = differences[(differences["group"] == "all") & (differences["k"] == 1)]
    gain = every[every["model"] == main].iloc[0]
    return {
        "tested_at": {
            name: policy_of(found[0].trained.policy, found[0].decoding).to_dict()
            for name, found in cells.items()
        },
        "pass_at_k": pd.concat(tables).to_dict("records"),
        "differences": differences.to_dict("records"),
        "beyond_rivals": pd.concat(beyond).to_dict("records") if beyond else [],
        "over_controls": pd.concat(over).to_dict("records") if over else [],
        "answers": {name: answer_lengths(found[0].samples) for name, found in cells.items()},
        "doubts": collect(
            few_problems("test", int(gain["problems"]), gain["low"], gain["high"]),
            own_difficulty(folder.loop.model, folder.loop.test.problems),
        ),
    }


def tested_passes(folder: RunFolder, choice: dict) -> pd.DataFrame:
    """`pass_table` of every model on the test problems, with `model` and `temperature`."""
    tables = [
        pass_table(verdicts(found[0]), folder.loop.test.ks).assign(
            model=name, temperature=found[0].decoding.temperature
        )
        for name, found in test_cells(folder, choice)[1].items()
    ]
    return pd.concat(tables, ignore_index=True)


def _sweep(folder: RunFolder, grid: Any, split: str, run: Run, unsandboxed: bool) -> None:
    out = folder.trial_folder(split)
    about: dict[str, Any] = {"certificates": folder.loop.certificates, "run": run}
    about |= {"processes": folder.loop.processes, "unsandboxed": unsandboxed}
    sweep_stage(grid, out, harmless=True, **about)
