"""Meta-training, from a configuration to a directory of weights."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from learned_opt import pretrained
from learned_opt.errors import WeightsError
from meta_train import config as configs
from meta_train import export, outer, run_directory
from meta_train.checkpointing import DISK_FULL, Checkpoints
from meta_train.config import MetaTrainConfig
from meta_train.errors import RunFailed
from meta_train.metrics import MetricLog
from meta_train.outer import Experiment, Problems, Report, State
from meta_train.progress import Reporter
from meta_train.signals import stop_on_signals
from meta_train.streams import Streams

PATIENCE = 20
"""Outer steps in a row without a finite gradient that end a run."""


class Outcome(NamedTuple):
    """How a call of `meta_train` ended."""

    step: int
    """Outer steps that the weights have seen."""
    signal: int | None
    """The signal that ended it early."""
    resumed_at: int | None
    """Outer step of the checkpoint that it started from; equal to `step` if there was nothing left to do."""
    results: dict[str, Any]
    """Measured results as in card.json; empty for a run that is not finished."""


def meta_train(config: MetaTrainConfig, out: Path, reporter: Reporter | None = None) -> Outcome:
    """Meta-train in `out`, or go on from the checkpoint in it; the result is the same, bit for bit.

    SIGTERM and Ctrl-C end it after the outer step that is running, with a checkpoint.

    Args:
      config: what to do.
      out: run directory, new or begun with the same configuration.
      reporter: where progress goes; standard error by default.

    Raises:
      InputError: `out` is not usable, or the data are not there.
      RunFailed: gradients stayed non-finite, a disk or memory is full, or a checkpoint is damaged.
    """
    reporter = reporter or Reporter()
    experiment = outer.build(config)
    with (
        _failures_named(out),
        run_directory.claim(out, config),
        stop_on_signals() as stop,
        Checkpoints(out / run_directory.CHECKPOINTS) as checkpoints,
    ):
        resumed_at = checkpoints.latest
        if resumed_at == config.steps == _steps_of_weights(out):
            return Outcome(config.steps, None, resumed_at, pretrained.load_pretrained(out).card["results"])
        # Placed as a restored state is: a resumed run compiles the very same program.
        state = jax.device_put(experiment.init(), jax.devices()[0])
        state = state if resumed_at is None else checkpoints.restore(state)
        step = resumed_at or 0
        streams = Streams(experiment.reservoirs, out)
        problems = experiment.problems if resumed_at is None else streams.restore(experiment.problems, step)
        run_directory.record_start(out, config, step=step, devices=[str(d.device_kind) for d in jax.devices()])
        if resumed_at is not None:
            reporter.note(f"resuming {out} at outer step {step} of {config.steps}")
        with reporter.task("compiling the outer step"):
            advance = compile_step(experiment, state)

        log = MetricLog(out, after=step, inner_steps=experiment.inner_steps)
        watch = _Watch(config, log, checkpoints, reporter)
        with log, reporter.running(start=step, steps=config.steps, inner_steps=experiment.inner_steps):
            while step < config.steps and stop.signal is None:
                state, report = advance(state, problems)
                step += 1
                problems = streams.advance(problems, step)
                watch.started(step, report)
                if step % config.checkpoint_every == 0:
                    watch.catch_up()
                    streams.save(step)
                    checkpoints.save(step, state)
                    reporter.saved(step)
            watch.catch_up()
            if checkpoints.latest != step:
                streams.save(step)
                checkpoints.save(step, state)
        seconds = log.seconds
        checkpoints.wait()
        theta = jax.device_get(state.theta)
        results = _results(experiment, theta, reporter) if step == config.steps else {}
        card = _card(experiment, step=step, seconds=seconds, results=results)
        pretrained.save_pretrained(out, experiment.rule, theta, card)
    return Outcome(step, stop.signal if step < config.steps else None, resumed_at, results)


def _steps_of_weights(out: Path) -> int | None:
    """Outer steps behind the weights in `out`; None if there are none that can be used: they are made again."""
    try:
        return export.outer_steps(out)
    except WeightsError:
        return None


def compile_step(experiment: Experiment, state: State) -> Callable[[State, Problems], tuple[State, Report]]:
    """The outer step, compiled ahead of its first use; it donates the state."""
    return jax.jit(experiment.step, donate_argnums=0).lower(state, experiment.problems).compile()


class _Watch:
    """Reads the report of a step once the next one is under way, so that at most one step is in flight."""

    def __init__(self, config: MetaTrainConfig, log: MetricLog, checkpoints: Checkpoints, reporter: Reporter) -> None:
        self._config, self._log, self._checkpoints, self._reporter = config, log, checkpoints, reporter
        self._pending: tuple[int, Report] | None = None

    def started(self, step: int, report: Report) -> None:
        """Outer step `step` has been dispatched; read the one before."""
        previous, self._pending = self._pending, (step, report)
        self._read(previous)

    def catch_up(self) -> None:
        """Read the last step, and put everything written so far on disk."""
        previous, self._pending = self._pending, None
        self._read(previous)
        self._log.sync()

    def _read(self, pending: tuple[int, Report] | None) -> None:
        if pending is None:
            return
        step, report = pending[0], jax.device_get(pending[1])
        if report.failures >= PATIENCE or not math.isfinite(report.theta_norm):
            what = "theta is" if report.failures < PATIENCE else f"{PATIENCE} meta-gradients in a row are"
            saved = self._checkpoints.latest
            last = "no checkpoint yet" if saved is None else f"the checkpoint of step {saved} is intact"
            raise RunFailed(
                f"stopped at outer step {step}: {what} not finite; {last}; lower --estimator.sigma or "
                "--meta-optimizer.learning-rate in a new --out"
            )
        self._reporter.step(step, float(report.meta_loss))
        if step % self._config.metrics_every == 0 or step == self._config.steps:
            self._log.write(step, report.means)


def _results(experiment: Experiment, theta: Any, reporter: Reporter) -> dict[str, Any]:
    """Meta-loss of the first weights and of `theta`, on the same whole episodes."""
    episodes = experiment.config.scored_episodes * len(experiment.problems)
    with reporter.task(f"measuring the meta-loss on {episodes} fixed episodes"):
        before, after = (
            float(np.mean(experiment.score(each))) for each in (jax.device_get(experiment.initial_theta()), theta)
        )
    return {"meta_loss_before": before, "meta_loss_after": after, "episodes": episodes}


def _card(experiment: Experiment, *, step: int, seconds: float, results: dict[str, Any]) -> dict[str, Any]:
    """What a card says of a meta-training run; `pretrained.save` adds the rule, versions, licence and checksum."""
    config = experiment.config
    models = [jax.eval_shape(problem.task.init, jax.random.key(0)).params for problem in experiment.problems]
    sizes = [sum(x.size for x in jax.tree.leaves(model)) for model in models]
    return {
        "recipe": {
            "config": configs.to_json(config),
            "outer_steps": step,
            "inner_steps": step * experiment.inner_steps,
            "seconds": round(seconds, 1),
            "source": run_directory.git_revision(),
        },
        "data": {"family": config.tasks.family, "tasks": [problem.task.name for problem in experiment.problems]},
        "seed": config.seed,
        "horizons": {"low": config.horizon.low, "high": config.horizon.high},
        "sizes": {"low": min(sizes), "high": max(sizes)},
        "results": results,
    }


@contextmanager
def _failures_named(out: Path) -> Iterator[None]:
    """Turn a full disk and a full memory into one line each."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise RunFailed(
            f"{out} cannot be written ({error.strerror}), its checkpoints are intact: free some space, repeat"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunFailed(
            "out of device memory: lower --estimator.pairs or --tasks.samples in a new --out; --dry-run shows the bytes"
        ) from error
