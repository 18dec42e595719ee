"""`ssd-probe run` and `demo`: the whole loop in one folder.

Sample from the base -> fine-tune on the raw samples -> choose each model's T_eval and the main arm
on dev -> test -> probe on the same texts -> compare and draw. Each stage is the command of its
name, leaves its files when they are complete, and does nothing again that is there.
"""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from ssd_probe.commands.loop.arms import doubts_of_students, make_student, rounds
from ssd_probe.commands.loop.declaration import Loop
from ssd_probe.commands.loop.positions import (
    branched,
    check_texts,
    compared,
    doubts_of_texts,
    probe_models,
)
from ssd_probe.commands.loop.presets import Chosen
from ssd_probe.commands.loop.trials import (
    choose_on_dev,
    predict_before_test,
    prediction_checked,
    run_test,
)
from ssd_probe.commands.pictures.figures import draw_figures
from ssd_probe.commands.run_folder import RunFolder
from ssd_probe.commands.sampling.certificates import certified
from ssd_probe.commands.sweep import isolation_of
from ssd_probe.core.lanes import Run, side_by_side
from ssd_probe.engines.choice import engine_of, serve_all
from ssd_probe.errors import UserError
from ssd_probe.files.claims import claim, is_foreign
from ssd_probe.files.digests import digest
from ssd_probe.files.record import add, begin
from ssd_probe.files.writing import write_json
from ssd_probe.models.checkpoints import device_name, named
from ssd_probe.models.identity import Checkpoint
from ssd_probe.problems.prompts import read_prompts
from ssd_probe.problems.tasks import load_tasks, tasks_identity
from ssd_probe.views.doubts import collect
from ssd_probe.views.story import tell
from ssd_probe.views.terminal import Told

Say = Callable[[str | Told], None]


def run_stage(
    chosen: Chosen, out: Path, say: Say = print, *, unsandboxed: bool = False
) -> dict[str, Any]:
    """Run, or go on with, a declared loop in folder `out`; the content of its summary.json.

    Errors: `UserError` when `out` is in use, holds something else, or was made with other settings;
    when the model, the prompts or the problems are not on this machine; where nothing isolates; for
    a certificate of another engine, model or decoding than the base's answers are of.
    """
    started, loop = time.time(), chosen.loop
    if is_foreign(out, out / "run.json"):
        raise UserError(f"{out}: not empty and not a run; choose another --out")
    isolated = isolation_of(loop.test.problems, unsandboxed, harmless=True)
    _check_inputs(loop, unsandboxed)
    settings, folder = _settings(loop), RunFolder(out, loop)
    certificates = _certificates(folder)
    for deviation in chosen.deviations:
        say(f"other than in the paper: {deviation}")
    with claim(out), side_by_side(loop.processes) as run:
        about = {**named(loop.model), "name": chosen.name, "deviations": chosen.deviations}
        begin(out / "run.json", settings, about | {"device": device_name(None)})
        if certificates:  # also of a run that goes on
            add(out / "run.json", conformance=certificates)
        _train(folder, run, say)
        say(
            "2/5 sweep T_eval on the dev split to find each model's best"
            if loop.dev
            else "2/5 nothing to choose: one T_eval, and no dev problems"
        )
        choice = choose_on_dev(folder, run, unsandboxed)
        say(f"    main arm: {choice['main']}")
        predicted = predict_before_test(folder, choice) if loop.predict and loop.dev else []
        _train_again(folder, choice["main"], run)
        say("3/5 sample and run the programs of the held-out test problems")
        passes = run_test(folder, choice, run, unsandboxed)
        say(f"4/5 probe {' and '.join(loop.probed)} on the same texts")
        _link_main(folder, choice["main"])
        probe_models(folder, choice, run)
        found = compared(folder, choice)
        forced = branched(folder, choice, unsandboxed) if loop.branch else {"doubts": []}
        doubts = collect(  # the weightiest first
            passes.pop("doubts"),
            found.pop("doubts"),
            doubts_of_students(folder, choice["main"], passes["answers"]),
            choice["doubts"],
            doubts_of_texts(folder, choice["main"], passes["answers"], found.get("segments", {})),
            forced.pop("doubts"),
        )
        add(out / "run.json", doubts=doubts)
        summary = {
            **{"name": chosen.name, "model": loop.model, "main": choice["main"]},
            **{"deviations": chosen.deviations, "doubts": doubts, "prediction": predicted},
            "prediction_check": prediction_checked(folder, choice["main"]) if predicted else [],
            **{"best_temperature": choice["T_eval"], "chosen_on": loop.dev and loop.dev.problems},
            **{"candidates": len(loop.candidates), "dev": choice["dev"]},
            **{"isolation": isolated, **passes, **found},
            **({"branch": forced} if loop.branch else {}),
        }
        say("5/5 draw the figures")
        summary["figures"] = [str(path.relative_to(out)) for path in draw_figures(out)[0]]
        summary["seconds"] = round(time.time() - started, 1)
        write_json(out / "summary.json", summary)
    say(tell(summary, out))
    return summary


def _check_inputs(loop: Loop, unsandboxed: bool) -> None:
    """`UserError` for what else would show only when students are trained."""
    if loop.dev:
        isolation_of(loop.dev.problems, unsandboxed, harmless=True)
    style = None if loop.style == "auto" else loop.style
    trials = {"dev": loop.dev, "test": loop.test}
    sources = {"prompts": loop.prompts} | {key: t.problems for key, t in trials.items() if t}
    for key, source in sources.items():
        try:
            read_prompts(source, 1, style)
        except UserError as error:
            raise UserError(f"{key}: {error}; --{key} names others") from None
    check_texts(loop)


def _certificates(folder: RunFolder) -> list[dict[str, Any]]:
    """The declared ones, all right; where there are any, vLLM is started to say its version."""
    loop = folder.loop
    if not (found := folder.certificates()):
        return []
    checkpoint, choice = Checkpoint(loop.model), serve_all(loop.engine, loop.engine_args)
    with closing(engine_of(choice, checkpoint, loop.batch_size)) as engine:
        return [certified(Path(at), checkpoint, engine, each) for each, at in found.items()]


def _settings(loop: Loop) -> dict[str, Any]:
    """What the run's numbers depend on: model, prompts, problems with their tests, declaration."""
    trials = {"dev": loop.dev, "test": loop.test}
    return {
        "model": Checkpoint(loop.model).identity,
        "prompts": digest(read_prompts(loop.prompts, loop.prompt_limit)),
        "problems": {key: tasks_identity(load_tasks(t.problems)) for key, t in trials.items() if t},
        "loop": loop.recorded(),
    }


def _train(folder: RunFolder, run: Run, say: Say) -> None:
    loop = folder.loop
    count = loop.prompt_limit or "all"
    say(f"1/5 sample {loop.n} x {count} answers to {loop.prompts}, and fine-tune on them:")
    for arm in loop.arms:
        made = f"samples at {arm.decoding}" if arm.decoding else "the corpus' own text"
        source = f" of {arm.source}'s student" if arm.source else ""
        kind = " (control)" if arm.is_control else ""
        say(f"    {arm.name}: {made}{source}{kind}")
    for level in rounds(loop):
        run(make_student, [(folder, arm, loop.seed) for arm in level])


def _train_again(folder: RunFolder, main: str, run: Run) -> None:
    """The further seeds, and of the main arm also those that it is made from."""
    loop = folder.loop
    needed, source = {arm.name for arm in loop.repeated(main)}, loop.arm(main).source
    while source:
        needed, source = needed | {source}, loop.arm(source).source
    for level in rounds(loop):
        chosen = [arm for arm in level if arm.name in needed]
        run(make_student, [(folder, arm, seed) for seed in loop.more_seeds for arm in chosen])


def _link_main(folder: RunFolder, main: str) -> None:
    """`checkpoint` in the run's folder is the main arm's student; a copy may hold it twice."""
    link, target = folder.out / "checkpoint", Path("checkpoints") / main
    if link.is_dir() and not link.is_symlink():
        return
    if not link.is_symlink() or link.readlink() != target:
        link.unlink(missing_ok=True)
        link.symlink_to(target, target_is_directory=True)
