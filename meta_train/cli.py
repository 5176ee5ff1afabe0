"""The command line. Arguments are parsed, and help is printed, before JAX is imported.

Exit status: 0 success; 1 failure; 2 bad input, with one line that says what to do; 128 + n after signal n with a
checkpoint, so 143 after SIGTERM and 130 after Ctrl-C.
"""

import contextlib
import difflib
import io
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import tyro

from learned_opt.errors import InputError
from meta_train import distributed
from meta_train.config import MetaTrainConfig
from meta_train.data_commands import tasks_command
from meta_train.distributed import DistributedConfig
from meta_train.errors import RunFailed
from meta_train.estimators_command import estimators_command
from meta_train.nowcast.command import nowcast_command
from meta_train.plan_config import PlanConfig
from meta_train.presets import PRESETS
from tasks.errors import InputError as TaskInputError

Args = TypeVar("Args")

PROGRAM = "learned-opt"


@dataclass(frozen=True)
class MetaTrainArgs:
    """Where to, and changes to the preset."""

    config: Annotated[MetaTrainConfig, tyro.conf.arg(name="")]
    """Changes to the preset."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Run directory; the same command again resumes what is there."""
    hosts: Annotated[DistributedConfig, tyro.conf.arg(name="")] = field(default_factory=DistributedConfig)
    """Processes that share the run, see docs/pods.md."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say what would be done and what it costs; write nothing."""
    plan: Annotated[PlanConfig, tyro.conf.arg(name="")] = field(default_factory=PlanConfig)
    """With --dry-run: devices that are not here."""


@dataclass(frozen=True)
class ExportArgs:
    """Release the weights of a finished run, or of another project, under a name."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run directory; with --layout, the file that another project published."""
    name: str
    """Name to load them by."""
    dest: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Directory of releases; the project's checkpoints by default."""
    evaluation: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Output of `learned-opt evaluate` with this run among the optimizers; its figures go into the card."""
    layout: Annotated[str | None, tyro.conf.arg(metavar="STR")] = None
    """Who wrote the published file: google, celo, celo2 or pylo."""
    licence: str = "unknown"
    """With --layout: licence of the weights, as their authors state it."""
    rule: Annotated[str | None, tyro.conf.arg(metavar="STR")] = None
    """With --layout: the rule, where several have the same weights, such as celo2_base."""


@dataclass(frozen=True)
class ListArgs:
    """Names that other commands take."""

    kind: tyro.conf.Positional[str] = "all"
    """pretrained, presets, tasks, suites or optimizers."""


class Command(NamedTuple):
    """A subcommand."""

    help: str
    run: Callable[[Sequence[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        status = _dispatch(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except BaseException as error:
        return explain(error)


def explain(error: BaseException, prefix: str = "") -> int:
    """Print an error in one line that begins with `prefix`, and return the exit status; raises what is a defect."""
    match error:
        case InputError() | TaskInputError():
            return _complain(f"{prefix}{error}", 2)
        case RunFailed():
            return _complain(f"{prefix}{error}", 1)
        case KeyboardInterrupt():
            return _complain(f"{prefix}aborted", 128 + signal.SIGINT)
        case BrokenPipeError():
            # Nobody reads on; keep the interpreter from failing again when it flushes at exit.
            if sys.stdout is not None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        case OSError():
            return _complain(f"{prefix}{error.filename or 'the system'}: {error.strerror or error}", 1)
    raise error


def meta_train_command(argv: Sequence[str]) -> int:
    """`learned-opt meta-train`."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {PROGRAM} meta-train PRESET --out RUN [options]\n\npresets:")
        _print_table((name, preset.description) for name, preset in PRESETS.items())
        print(f"\n{PROGRAM} meta-train PRESET --help shows the options of a preset with their values.")
        return 0 if argv else 2
    preset, rest = argv[0], argv[1:]
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r}: {_nearest(preset, PRESETS)}; see `{PROGRAM} list presets`")
    args = _parse(
        MetaTrainArgs,
        rest,
        command=f"meta-train {preset}",
        description=PRESETS[preset].description,
        default=MetaTrainArgs(config=PRESETS[preset].config),
    )
    _quiet_libraries()
    if args.dry_run:
        if args.plan != PlanConfig():
            from meta_train.planner import plan

            print(plan(args.config, args.plan))
            return 0
        from meta_train.dry_run import dry_run

        print(dry_run(args.config))
        return 0
    if args.plan != PlanConfig():
        raise InputError("--plan-devices and its like only describe: expected --dry-run with them")
    if args.out is None:
        raise InputError(f"--out is missing: expected a directory for the run, such as --out runs/{preset}")
    config, out = args.config, args.out
    return distributed.run(args.hosts, lambda process: _meta_train(config, out, process), _explain_all)


def export_command(argv: Sequence[str]) -> int:
    """`learned-opt export`."""
    from meta_train.export import export, export_published

    args = _parse(ExportArgs, argv, command="export")
    if args.layout is not None:
        target = export_published(
            args.run, args.layout, args.name, args.dest, args.evaluation, licence=args.licence, rule=args.rule
        )
    elif args.rule is not None or args.licence != "unknown":
        raise InputError("--licence and --rule are for published weights: add --layout, or leave them out")
    else:
        target = export(args.run, args.name, args.dest, args.evaluation)
    print(f"{target}\n{_use(args.name if args.dest is None else str(target), target)}")
    return 0


def evaluate_command(argv: Sequence[str]) -> int:
    """`learned-opt evaluate`."""
    from meta_train import evaluate

    args = _parse(evaluate.EvaluateArgs, argv, command="evaluate")
    _quiet_libraries()
    return evaluate.run(args)


def report_command(argv: Sequence[str]) -> int:
    """`learned-opt report`."""
    from meta_train import report

    return report.run(_parse(report.ReportArgs, argv, command="report"))


def list_command(argv: Sequence[str]) -> int:
    """`learned-opt list`."""
    args = _parse(ListArgs, argv, command="list")
    if args.kind != "all" and args.kind not in _LISTS:
        raise InputError(f"list {args.kind!r}: {_nearest(args.kind, _LISTS)}")
    kinds = _LISTS if args.kind == "all" else (args.kind,)
    for i, kind in enumerate(kinds):
        if len(kinds) > 1:
            print(f"{'' if i == 0 else chr(10)}{kind}:")
        _print_table(_LISTS[kind]().items() or [("none yet", "")])
    return 0


COMMANDS = {
    "meta-train": Command("find the weights of a learned optimizer, or resume", meta_train_command),
    "evaluate": Command("compare optimizers on a suite of tasks", evaluate_command),
    "report": Command("show an evaluation as one HTML file", report_command),
    "tasks": Command("prepare data sets, or make them from your files", tasks_command),
    "export": Command("release the weights of a run, or of another project, under a name", export_command),
    "estimators": Command("studies of the meta-gradient estimators", estimators_command),
    "nowcast": Command("train and judge networks that predict where parameters go", nowcast_command),
    "list": Command("names of pretrained weights, presets, tasks, suites and optimizers", list_command),
}


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {PROGRAM} COMMAND [options]\n\ncommands:")
        _print_table((name, command.help) for name, command in COMMANDS.items())
        print(f"\n{PROGRAM} COMMAND --help shows its options.")
        return 0 if argv else 2
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        raise InputError(f"command {name!r}: {_nearest(name, COMMANDS)}; see `{PROGRAM} --help`")
    return COMMANDS[name].run(rest)


def _meta_train(config: MetaTrainConfig, out: Path, process: distributed.Process) -> int:
    import jax

    from meta_train.trainer import meta_train

    outcome = meta_train(config, out, devices=jax.devices())
    if not process.first:
        return 0 if outcome.signal is None else 128 + outcome.signal
    if outcome.signal is not None:
        name = signal.Signals(outcome.signal).name
        progress = f"outer step {outcome.step} of {config.steps}"
        print(f"stopped by {name} at {progress}, saved in {out}; repeat the command to go on")
        return 128 + outcome.signal
    if outcome.resumed_at == outcome.step:
        print(f"{out} is finished: {outcome.step} outer steps; choose another --out for another run")
    results = outcome.results
    print(
        f"meta-loss {results['meta_loss_before']:.4f} before, {results['meta_loss_after']:.4f} after "
        f"({_OBJECTIVES[config.estimator.objective]}, {results['episodes']} fixed episodes)\n"
        f"weights: {out / 'weights.safetensors'}\n\n"
        "  import learned_opt, optax\n"
        f"  opt = {_use(str(out), out, config.horizon.high)}\n"
        "  state = opt.init(params)\n"
        "  updates, state = opt.update(grads, state, params, value=loss)\n"
        "  params = optax.apply_updates(params, updates)"
    )
    return 0


_OBJECTIVES = {
    "mean": "mean loss per inner step",
    "final": "mean loss per inner step",
    "validation": "mean validation loss per inner step",
    "relative": "weighted mean of log(loss / cap + 0.01)",
}
"""What the meta-loss of a run is."""


def _use(name: str, folder: Path, num_steps: int | None = None) -> str:
    """The expression that makes an optimizer of the weights in `folder`."""
    from learned_opt import rules
    from learned_opt.pretrained import load_pretrained

    loaded = load_pretrained(folder)
    if loaded.takes_learning_rate:
        return f"learned_opt.chain(learned_opt.from_pretrained({name!r}), learning_rate=...)"
    steps = f", num_steps={num_steps or '...'}" if loaded.rule.name in rules.READ_NUM_STEPS else ""
    return f"learned_opt.from_pretrained({name!r}{steps})"


def _parse(
    kind: type[Args], argv: Sequence[str], *, command: str, default: Args | None = None, description: str | None = None
) -> Args:
    """Arguments of a command; what tyro says in a box on failure becomes one line.

    Raises:
      InputError: unknown flags, or values that do not fit.
    """
    complaint = io.StringIO()
    prog = f"{PROGRAM} {command}"
    try:
        with contextlib.redirect_stderr(complaint):
            extra: dict[str, Any] = {} if default is None else {"default": default}
            return tyro.cli(kind, args=list(argv), prog=prog, description=description, **extra)
    except SystemExit as exit_:
        if not exit_.code:
            raise
        raise InputError(f"{condense(complaint.getvalue())}; see `{prog} --help`") from None


def condense(box: str) -> str:
    """What a framed complaint of tyro's says, on one line: its title, help texts and frames are left out.

    Frames are drawn where the encoding of standard output is UTF-8; elsewhere there are only rules of hyphens.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    plain = re.sub(r"^╭─ (.*?) ─*╮$", r"\1\n────", plain, flags=re.MULTILINE)
    lines = [line.strip("│ ") for line in plain.splitlines() if not line.startswith("╰")]
    _, *sections = (part.strip().splitlines() for part in re.split(r"\n[─-]{4,}\n", "\n".join(lines)))
    parts = []
    for number, (first, *rest) in enumerate(section for section in sections if section):
        flags = [line.split()[0] for line in rest if re.match(r"(--[\w.-]+|[A-Z_]{2,})( |$)", line)]
        if first.startswith("Missing from"):
            parts.append(f"missing {', '.join(flags)}")
        elif first.startswith("Perhaps you meant"):
            parts.append(f"did you mean {' or '.join(flags[:2])}?")
        elif number == 0 or first.startswith("Unrecognized"):
            parts.append(" ".join([first, *rest]).removeprefix("Error parsing config: ").rstrip(".!"))
    return "; ".join(parts)


def _list_pretrained() -> dict[str, str]:
    import learned_opt

    return dict.fromkeys(learned_opt.list_pretrained(), "")


def _list_tasks() -> dict[str, str]:
    from tasks import suites

    return suites.describe_families() | suites.describe_tasks()


def _list_suites() -> dict[str, str]:
    from tasks import suites

    return suites.describe_suites()


def _list_optimizers() -> dict[str, str]:
    from meta_train.evaluate.names import BASELINES

    return BASELINES | _list_pretrained()


_LISTS: dict[str, Callable[[], dict[str, str]]] = {
    "pretrained": _list_pretrained,
    "presets": lambda: {name: preset.description for name, preset in PRESETS.items()},
    "tasks": _list_tasks,
    "suites": _list_suites,
    "optimizers": _list_optimizers,
}


def _print_table(rows: Iterable[tuple[str, str]]) -> None:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        print(f"  {name:{width}}  {text}".rstrip())


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(known)}"


def _explain_all(error: BaseException, prefix: str) -> int:
    """As `explain`, for a process that has to end whatever the error is."""
    try:
        return explain(error, prefix)
    except BaseException:
        traceback.print_exc()
        return 1


def _complain(error: object, status: int) -> int:
    print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _quiet_libraries() -> None:
    """Keep what libraries log for their own authors out of the way of progress and results."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax; what it logs, it also raises
    logging.getLogger("jax").setLevel(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
