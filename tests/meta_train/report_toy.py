"""A synthetic evaluation directory: learning curves of a formula, no training.

    loss(t) = floor + (start - floor) / (1 + t / tau)     tau grows with the distance of the rate from the best one

Rates 30 times the best and more diverge. The summary is that of `summarize`: the types of the real one, with simpler
statistics than those of the evaluation.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np

from meta_train.evaluate import store
from meta_train.evaluate import summary as types
from meta_train.evaluate.statistics import Figure, Share, student_t
from meta_train.evaluate.summary import BEST

LEARNED = ("small-fc-digits", "runs/<b>&co")
BASELINES = {"adam": 1e-2, "nadamw": 1e-2, "lion": 3e-3, "sgd": 1e-1}
MISSING = ("task_01", "sgd")
"""The group that is absent where `missing` is set."""


def trials(centre, n=7):
    """Seven rates outwards from the centre, then two more schedules and a second weight decay of each."""
    offsets = sorted(range(-3, 4), key=lambda half: (abs(half), -half))
    rates = [float(f"{centre * 10 ** (half / 2):.1g}") for half in offsets]
    settings = [(rate, s, d) for d in (0.0, 0.1) for s in ("constant", "cosine", "linear") for rate in rates]
    return [{"learning_rate": r, "schedule": s, "weight_decay": d} for r, s, d in settings[:n]]


def group(task, name, kind, *, seeds, steps, n_trials, lost=False, points=100):
    """Rows and curves of one optimizer on one task."""
    rng = np.random.default_rng(zlib.crc32(f"{task}/{name}".encode()))
    character = np.random.default_rng(zlib.crc32(task.encode()))
    start, floor, base = character.uniform(1.5, 6.0), character.uniform(0.05, 1.0), character.uniform(5.0, 30.0)
    best = 10 ** rng.normal(0.0, 0.4)
    settings = trials(BASELINES[name], n_trials) if kind == "baseline" else [None]
    step = np.arange(0, steps, -(-steps // points))
    valid_step = np.linspace(0, steps, 11).astype(np.int32)
    shape = (len(settings), seeds)
    loss, valid = np.zeros((*shape, len(step)), np.float32), np.zeros((*shape, 11), np.float32)
    rows = []
    for i, trial in enumerate(settings):
        away = 0.0 if trial is None else math.log10(trial["learning_rate"] / BASELINES[name] / best)
        tau = base * rng.lognormal(0.0, 0.15) * (0.7 if trial is None else 1.0) * 10 ** min(away**2, 3.0)
        for seed in range(seeds):
            noise = lambda size: rng.lognormal(0.0, 0.03, size) * rng.lognormal(0.0, 0.03)
            curve = lambda t, tau=tau: floor + (start - floor) / (1.0 + t / tau)
            loss[i, seed] = curve(step) * noise(len(step))
            valid[i, seed] = 1.05 * curve(valid_step) * noise(11)
            diverged = lost or away > 1.4 or (trial is None and task == "task_07" and seed == 1)
            at = int(rng.integers(steps // 20, steps // 2 + 1)) if diverged else None
            if at is not None:
                loss[i, seed, step >= at], valid[i, seed, valid_step > at] = np.nan, np.inf
            mean = float(loss[i, seed].mean(dtype=np.float64))
            rows.append(
                {
                    "task": task,
                    "optimizer": name,
                    "kind": kind,
                    "trial": i,
                    **(trial or dict.fromkeys(("learning_rate", "schedule", "weight_decay"))),
                    "seed": seed,
                    "steps": steps,
                    "mean_train_loss": None if diverged else mean,
                    "first_train_loss": float(loss[i, seed, 0]),
                    "final_train_loss": None if diverged else float(loss[i, seed, -1]),
                    "final_valid_loss": None if diverged else float(valid[i, seed, -1]),
                    "diverged": diverged,
                    "diverged_at": at,
                    "seconds": 0.1 * rng.lognormal(0.0, 0.2) * (3.0 if kind == "learned" else 1.0),
                }
            )
    curves = {
        "loss": loss,
        "step": step.astype(np.int32),
        "valid_loss": valid,
        "valid_step": valid_step,
        "compile_seconds": np.float64(1.0),
        "state_bytes": np.int64(8000 if kind == "baseline" else 44000),
        "param_bytes": np.int64(4000),
    }
    return rows, curves


def figure(runs, field="final_train_loss"):
    return student_t([row[field] for row in runs if not row["diverged"]])


def best(trials):
    """The runs of the best of some trials."""
    order = lambda runs: (sum(row["diverged"] for row in runs), figure(runs).mean or math.inf)
    return min(trials, key=order)


def compare(own, name, other, field):
    pairs = [(a[field], b[field]) for a, b in zip(own, other, strict=True) if not (a["diverged"] or b["diverged"])]
    difference = student_t([a - b for a, b in pairs])
    logs = student_t([math.log(a / b) for a, b in pairs])
    ratio = Figure(*[None if x is None else math.exp(x) for x in (logs.mean, logs.low, logs.high)], logs.n)
    failed = len(pairs) < len(own)
    better, verdict = (difference.mean or 0.0) < 0 and not failed, "undecided"
    if failed or (difference.low is not None and difference.low > 0):
        verdict = "worse"
    elif difference.high is not None and difference.high < 0:
        verdict = "better"
    ratio = Figure(None, None, None, 0) if failed else ratio
    return types.Comparison(
        name, ratio, difference, 0.01 if pairs else None, len(own) - len(pairs), better, better, verdict
    )


def share(count, n):
    return (
        Share(count, n, count / n, max(0.0, count / n - 0.1), min(1.0, count / n + 0.1))
        if n
        else Share(0, 0, *[None] * 3)
    )


def middle(values, n):
    """Mean of the middle half, with the quartiles for an interval; open below 4 values."""
    if not values:
        return Figure(None, None, None, n)
    kept = sorted(values)[len(values) // 4 : len(values) - len(values) // 4]
    return Figure(float(np.mean(kept)), *((kept[0], kept[-1]) if len(values) >= 4 else (None, None)), n)


def quality(comparisons):
    verdicts = {v: sum(c.verdict == v for c in comparisons) for v in ("better", "worse", "undecided")}
    lower = share(sum(c.better for c in comparisons), len(comparisons))
    ratios = [c.ratio.mean for c in comparisons if c.ratio.mean is not None]
    return types.Quality(middle(ratios, len(comparisons)), lower, lower, verdicts, verdicts)


def at_budget(runs, kinds, name, n):
    """An optimizer after the first n trials, given the trials of all of a task."""
    chosen = {other: best(trials[:n]) for other, trials in runs.items()}
    tuned = {other: [chosen[other]] for other in runs if kinds[other] == "baseline"}
    reference = min(tuned, key=lambda other: figure(chosen[other]).mean or math.inf, default=None)
    others = {BEST: reference} if reference is not None and reference != name else {}
    if kinds[name] == "learned":
        others |= {other: other for other in tuned}
    own = chosen[name]
    train = {key: compare(own, other, chosen[other], "final_train_loss") for key, other in others.items()}
    valid = {key: compare(own, other, chosen[other], "final_valid_loss") for key, other in others.items()}
    speed = lambda c: 0.0 if c.ratio.mean is None else c.ratio.mean**-2
    cases = {key: "failed" if not speed(c) else "reached" if speed(c) > 1 else "behind" for key, c in train.items()}
    speedup = {key: types.Speedup(c.baseline, speed(c), cases[key]) for key, c in train.items()}
    target = None
    if reference is not None and figure(chosen[reference]).mean is not None:
        steps = 150.0 if figure(own).mean is not None else None
        target = types.ToTarget(figure(chosen[reference]).mean, steps, steps and 1e-3 * steps)
    index, lost = own[0]["trial"], sum(row["diverged"] for row in own)
    losses = [figure(own, field) for field in ("mean_train_loss", "final_train_loss", "final_valid_loss")]
    return types.AtBudget(index, index, *losses, lost, train, valid, speedup, target)


def result(runs, kinds, name, budgets):
    trials, at = runs[name], {n: at_budget(runs, kinds, name, n) for n in budgets}
    last = at[budgets[-1]]
    lost = lambda rows: sum(row["diverged"] for row in rows)
    setting = lambda rows: [rows[0][key] for key in ("learning_rate", "schedule", "weight_decay")]
    losses = lambda rows: [figure(rows, f"{field}_loss") for field in ("mean_train", "final_train", "final_valid")]
    chosen = trials[last.best_trial]
    return types.Result(
        kinds[name], len(trials), len(chosen), last.best_trial, *setting(chosen), None, *losses(chosen), last.diverged,
        sum(map(lost, trials)), 0.1, 1.0, last.train.get(BEST),
        tuple(types.TrialResult(*setting(rows), figure(rows), lost(rows)) for rows in trials), at,
    )  # fmt: skip


def over_tasks(results, n):
    at = [r.budgets[n] for r in results]
    keys = dict.fromkeys(key for a in at for key in a.train)
    versus = {}
    for key in keys:
        of = [a for a in at if key in a.train]
        speeds = [a.speedup[key].value for a in of]
        faster = share(sum(v > 1 for v in speeds), len(of))
        speedups = types.Speedups(middle(speeds, len(of)), faster, sum(v == 0 for v in speeds))
        versus[key] = types.Versus(quality([a.train[key] for a in of]), quality([a.valid[key] for a in of]), speedups)
    return types.OverallAtBudget(sum(a.diverged > 0 for a in at), versus, share(len(at), len(at)))


def overall(results, budgets):
    comparisons = [r.comparison for r in results if r.comparison is not None]
    ratios = [c.ratio.mean for c in comparisons if c.ratio.mean is not None]
    return types.Overall(
        kind=results[0].kind,
        tasks=len(results),
        runs=sum(r.trials * r.seeds for r in results),
        ratio=middle(ratios, len(ratios)),
        tasks_compared=len(ratios),
        verdicts=quality(comparisons).verdicts,
        best_baseline=sum(r.comparison is None and r.kind == "baseline" for r in results),
        tasks_diverged=sum(r.diverged > 0 for r in results),
        diverged_all_trials=sum(r.diverged_all_trials for r in results),
        rate_at_edge=0,
        budgets={n: over_tasks(results, n) for n in budgets},
    )


def profile(per_task, names, n):
    """Shares of the tasks within a factor of the best."""
    tau = tuple(np.geomspace(1.0, 4.0, 60).tolist())
    losses = {m: [r[m].budgets[n].final_train_loss.mean or math.inf for r in per_task.values()] for m in names}
    least = np.min(list(losses.values()), axis=0)
    line = lambda m: [
        float(np.mean([a <= t * b < math.inf for a, b in zip(losses[m], least, strict=True)])) for t in tau
    ]
    lines = {
        m: types.Line(tuple(y := line(m)), tuple(0.9 * v for v in y), tuple(min(1.0, 1.1 * v) for v in y))
        for m in names
    }
    return types.Profile(tau, lines, {m: float(np.mean(lines[m].share)) for m in names}, len(per_task))


def summarize(groups, kinds, configuration, n_trials):
    """groups: (task, optimizer) -> rows."""
    budgets = [n for n in (1, 7, 42) if n <= n_trials]
    per_task = {}
    for task in configuration["tasks"]:
        runs = {}
        for name in kinds:
            rows = groups[task, name]
            runs[name] = [[row for row in rows if row["trial"] == i] for i in range(rows[-1]["trial"] + 1)]
        per_task[task] = {name: result(runs, kinds, name, budgets) for name in kinds}
    measures = ("final_train_loss", "final_valid_loss", "steps_to_target")
    of = lambda name: [results[name] for results in per_task.values()]
    cost = lambda kind: types.Overhead("task_00", 7850, 2e-4, 6.0 if kind == "learned" else 1.1, 9e-3, 1.4, 44.0)
    return types.Summary(
        configuration=configuration,
        budgets={name: len(of(name)[0].by_trial) for name in kinds},
        seeds=list(range(configuration["seeds"])),
        per_task=per_task,
        overall={name: overall(of(name), budgets) for name in kinds},
        profiles={n: {m: profile(per_task, list(kinds), n) for m in measures} for n in budgets},
        overhead={name: cost(kind) for name, kind in kinds.items()},
        notes=dict(types.NOTES),
    )


def write(
    out,
    *,
    tasks=30,
    learned=LEARNED,
    baselines=tuple(BASELINES),
    seeds=5,
    steps=200,
    n_trials=7,
    missing=False,
    lost=False,
):
    """An evaluation directory; `missing`: without one of its groups; `lost`: every run diverges."""
    out = Path(out)
    names = {name: "learned" for name in learned} | {name: "baseline" for name in baselines}
    task_names = [f"task_{k:02d}" for k in range(tasks)]
    groups = {}
    out.mkdir(parents=True, exist_ok=True)
    with (out / "results.jsonl").open("w") as file:
        for task in task_names:
            for name, kind in names.items():
                rows, curves = group(task, name, kind, seeds=seeds, steps=steps, n_trials=n_trials, lost=lost)
                groups[task, name] = rows
                if missing and (task, name) == MISSING:
                    continue
                path = store.curves_path(out, task, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(path, **curves)
                file.writelines(json.dumps(row) + "\n" for row in rows)
    configuration = {
        "suite": "toy",
        "tasks": task_names,
        "steps": steps,
        "seeds": seeds,
        "seed": 0,
        "optimizers": {n: {"kind": k, "trials": [{}], "theta_sha256": None} for n, k in names.items()},
        "versions": {"learned-opt": "0.1.0", "jax": "0.10.2", "optax": "0.2.8", "device": "cpu"},
    }
    store.write_json(out / "evaluation.json", configuration)
    content = summarize(groups, names, configuration, n_trials).as_json()
    if missing:
        del content["per_task"][MISSING[0]][MISSING[1]]
    store.write_json(out / "summary.json", content)
    return out
