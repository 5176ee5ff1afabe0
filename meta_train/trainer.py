"""Meta-training, from a configuration to a directory of weights."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from learned_opt import pretrained
from learned_opt.errors import WeightsError
from meta_train import cards, export, hosts, mesh, outer, run_directory
from meta_train.checkpointing import DISK_FULL, Checkpoints
from meta_train.config import MetaTrainConfig
from meta_train.errors import RunFailed
from meta_train.metrics import MetricLog
from meta_train.outer import Experiment, Report, State
from meta_train.progress import Reporter
from meta_train.signals import SIGNALS, StopRequest, stop_on_signals
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


def meta_train(
    config: MetaTrainConfig,
    out: Path,
    reporter: Reporter | None = None,
    *,
    devices: Sequence[Any] | None = None,
) -> Outcome:
    """Meta-train in `out`, or go on from the checkpoint in it; the result is the same, bit for bit.

    SIGTERM and Ctrl-C end it after the outer step that is running, with a checkpoint. A run may be resumed on other
    devices: its result then differs in the order of sums.

    Args:
      config: what to do.
      out: run directory, new or begun with the same configuration.
      reporter: where progress goes; standard error by default, silence where this is not the first of its processes.
      devices: that share the particles, those of all processes; the first one by default.

    Raises:
      InputError: `out` is not usable, the data are not there, or processes differ.
      RunFailed: gradients stayed non-finite, a disk or memory is full, or a checkpoint is damaged.
    """
    first = jax.process_index() == 0
    reporter = reporter or Reporter(silent=not first)
    with _failures_named(out), stop_on_signals() as stop:
        devices = devices or jax.devices()[:1]
        experiment = hosts.on(devices, outer.build(config))
        with hosts.claimed(out, config), Checkpoints(out / run_directory.CHECKPOINTS) as checkpoints:
            if checkpoints.latest == config.steps == _steps_of_weights(out):
                results = pretrained.load_pretrained(out).card["results"]
                return Outcome(config.steps, None, config.steps, results)
            run_directory.check_tasks(out, experiment.task_shapes)
            for line in [*experiment.remarks(), *hosts.described(devices, experiment)]:
                reporter.note(line)
            state = experiment.init()
            if experiment.mesh is None:  # Placed as a restored state is: a resumed run compiles the very same program.
                state = jax.device_put(state, jax.devices()[0])
            saved = checkpoints.newest(state, reporter.note)
            state, resumed_at = (state, None) if saved is None else saved
            ended = _advance(experiment, out, state, resumed_at, checkpoints, reporter, stop)
            if not first:
                return ended.outcome
            theta = jax.device_get(ended.theta)
            step = ended.outcome.step
            results = cards.results(experiment, theta, reporter) if step == config.steps else {}
            card = cards.card(experiment, step=step, seconds=ended.seconds, results=results)
            pretrained.save_pretrained(out, experiment.rule, theta, card)
            return ended.outcome._replace(results=results)


class _Ended(NamedTuple):
    """What the loop leaves."""

    outcome: Outcome
    theta: Any
    seconds: float
    """Spent on outer steps by all starts of the run; 0 where this is not the first process."""


def _advance(
    experiment: Experiment,
    out: Path,
    state: State,
    resumed_at: int | None,
    checkpoints: Checkpoints,
    reporter: Reporter,
    stop: StopRequest,
) -> _Ended:
    """Outer steps until the last one, or until somebody wants to stop; the checkpoint of the last is on disk."""
    config, step, first = experiment.config, resumed_at or 0, jax.process_index() == 0
    streams = Streams(experiment.reservoirs, out)
    place = partial(mesh.replicate, experiment.mesh) if experiment.mesh is not None else lambda problems: problems
    problems = experiment.problems if resumed_at is None else place(streams.restore(experiment.problems, step))
    if first:
        kinds = [str(d.device_kind) for d in jax.devices()]
        run_directory.record_start(out, config, step=step, devices=kinds, tasks=experiment.task_shapes)
    if resumed_at is not None:
        reporter.note(f"resuming {out} at outer step {step} of {config.steps}")
    with reporter.task("compiling the outer step"):
        advance = compile_step(experiment, state)

    log = MetricLog(out, after=step, inner_steps=experiment.inner_steps) if first else None
    watch = _Watch(config, log, checkpoints, reporter, stop)
    asked = _Asked(experiment, stop)
    save = lambda: (streams.save(step) if first else None, checkpoints.save(step, state))
    with log or nullcontext(), reporter.running(start=step, steps=config.steps, inner_steps=experiment.inner_steps):
        while step < config.steps and watch.stop is None:
            state, report = advance(state, problems, *asked.now())
            step += 1
            problems = place(streams.advance(problems, step)) if experiment.reservoirs else problems
            watch.started(step, report)
            if step % config.checkpoint_every == 0:
                watch.catch_up()
                save()
                reporter.saved(step)
        watch.catch_up()
        if checkpoints.latest != step:
            save()
    checkpoints.wait()
    outcome = Outcome(step, watch.stop if step < config.steps else None, resumed_at, {})
    return _Ended(outcome, state.theta, 0.0 if log is None else log.seconds)


class _Asked:
    """The argument of the outer step that asks all processes to stop; none without a mesh."""

    def __init__(self, experiment: Experiment, stop: StopRequest) -> None:
        self._mesh, self._stop = experiment.mesh, stop
        self._made: tuple[int | None, Any] | None = None

    def now(self) -> tuple[Any, ...]:
        """As it is now; made anew when a signal has come."""
        if self._mesh is None:
            return ()
        if self._made is None or self._made[0] != self._stop.signal:
            self._made = self._stop.signal, mesh.stop_request(self._mesh, self._stop.signal, SIGNALS)
        return (self._made[1],)


def _steps_of_weights(out: Path) -> int | None:
    """Outer steps behind the weights in `out`; None if there are none that can be used: they are made again."""
    try:
        return export.outer_steps(out)
    except WeightsError:
        return None


def compile_step(experiment: Experiment, state: State) -> Callable[..., tuple[State, Report]]:
    """The outer step, compiled ahead of its first use; it donates the state.

    It takes the state, the problems and, on a mesh, the request to stop.
    """
    return jax.jit(experiment.step, donate_argnums=0).lower(state, *arguments(experiment)).compile()


def arguments(experiment: Experiment) -> tuple[Any, ...]:
    """What the outer step takes beside its state, for a step that nobody stops."""
    if experiment.mesh is None:
        return (experiment.problems,)
    return experiment.problems, mesh.stop_request(experiment.mesh, None, SIGNALS)


class _Watch:
    """Reads the report of a step once the next one is under way, so that at most one step is in flight."""

    def __init__(
        self,
        config: MetaTrainConfig,
        log: MetricLog | None,
        checkpoints: Checkpoints,
        reporter: Reporter,
        stop: StopRequest,
    ) -> None:
        self._config, self._log, self._checkpoints, self._reporter = config, log, checkpoints, reporter
        self._stop, self._agreed, self._alone = stop, None, jax.process_count() == 1
        self._pending: tuple[int, Report] | None = None

    @property
    def stop(self) -> int | None:
        """The signal to stop because of; where there are several processes, the one that all of them have read of."""
        return self._stop.signal if self._alone else self._agreed

    def started(self, step: int, report: Report) -> None:
        """Outer step `step` has been dispatched; read the one before."""
        previous, self._pending = self._pending, (step, report)
        self._read(previous)

    def catch_up(self) -> None:
        """Read the last step, and put everything written so far on disk."""
        previous, self._pending = self._pending, None
        self._read(previous)
        if self._log is not None:
            self._log.sync()

    def _read(self, pending: tuple[int, Report] | None) -> None:
        if pending is None:
            return
        step, report = pending[0], jax.device_get(pending[1])
        for number, asking in zip(SIGNALS, report.stops, strict=False):
            self._agreed = number if asking and self._agreed is None else self._agreed
        if report.failures >= PATIENCE or not math.isfinite(report.theta_norm):
            what = "theta is" if report.failures < PATIENCE else f"{PATIENCE} meta-gradients in a row are"
            saved = self._checkpoints.latest
            last = "no checkpoint yet" if saved is None else f"the checkpoint of step {saved} is intact"
            raise RunFailed(
                f"stopped at outer step {step}: {what} not finite; {last}; lower --estimator.sigma or "
                "--meta-optimizer.learning-rate in a new --out"
            )
        self._reporter.step(step, float(report.meta_loss))
        if self._log is not None and (step % self._config.metrics_every == 0 or step == self._config.steps):
            self._log.write(step, report.means)


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
