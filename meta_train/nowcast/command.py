"""`learned-opt nowcast`: networks that predict parameters are trained and judged. Parsed before JAX is imported."""

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from learned_opt.errors import InputError
from meta_train.nowcast.config import CollectConfig, EvaluateConfig, TrainConfig
from meta_train.nowcast.presets import PRESETS, Preset


@dataclass(frozen=True)
class CollectArgs:
    """Train tasks with AdamW and keep the states of their parameters; the same command again goes on."""

    config: Annotated[CollectConfig, tyro.conf.arg(name="")]
    out: Annotated[Path | None, tyro.conf.arg(metavar="DATA")] = None
    """Folder of the trajectories."""


@dataclass(frozen=True)
class TrainArgs:
    """Train a network on trajectories; the same command again resumes."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    data: Annotated[Path | None, tyro.conf.arg(metavar="DATA")] = None
    """Folder of trajectories, made by `learned-opt nowcast collect`."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Run directory; the network is released there when it is trained."""


@dataclass(frozen=True)
class EvaluateArgs:
    """Compare optimizers with jumps and without, by the steps they need."""

    config: Annotated[EvaluateConfig, tyro.conf.arg(name="")]
    out: Path
    """Directory of the results; the same command again goes on."""
    contenders: str = "adamw,lookahead,schedule_free_adamw,lawa,line_fit@2"
    """Comma separated: baselines, lawa, line_fit, folders of trained networks; @K sets the horizon, +path, +predictable
    and +cautious restrain the jumps: runs/wnn@10+path; "line_fit@2 on small-fc-digits" jumps on a learned optimizer."""


def nowcast_command(argv: Sequence[str]) -> int:
    """`learned-opt nowcast collect`, `train` and `evaluate`; returns the exit status.

    Raises:
      InputError: bad arguments, or folders that do not fit.
      RunFailed: a run stopped for another reason.
    """
    from meta_train.cli import PROGRAM

    if not argv or argv[0] in ("-h", "--help"):
        print(
            f"usage: {PROGRAM} nowcast ACTION [options]\n\nactions:\n"
            "  collect PRESET --out DATA               keep trajectories of training runs\n"
            "  train PRESET --data DATA --out RUN      train WNN+ or NiNo (--network nino) on them\n"
            "  evaluate --suite SUITE --out DIR        steps to a target, beside tuned AdamW and others\n\npresets:"
        )
        for name, preset in PRESETS.items():
            print(f"  {name:14} {preset.description}")
        print(f"\n{PROGRAM} nowcast ACTION --help shows its options.")
        return 0 if argv else 2
    actions: dict[str, Callable[[Sequence[str]], int]] = {
        "collect": _collect, "train": _train, "evaluate": _evaluate,
    }  # fmt: skip
    if argv[0] not in actions:
        raise InputError(f"nowcast {argv[0]!r}: expected one of {', '.join(actions)}; see `{PROGRAM} nowcast --help`")
    return actions[argv[0]](argv[1:])


def _preset(argv: Sequence[str]) -> tuple[Preset, Sequence[str]]:
    """The preset that comes first, and the rest; for help alone, the first of all."""
    first, default = (argv[0] if argv else "none"), next(iter(PRESETS))
    if first in ("-h", "--help"):
        return PRESETS[default], argv
    if first not in PRESETS:
        raise InputError(f"preset {first!r}: expected one of {', '.join(PRESETS)}; see `learned-opt nowcast --help`")
    return PRESETS[first], argv[1:]


def _given(flag: str, path: Path | None, example: str) -> Path:
    if path is None:
        raise InputError(f"{flag} is missing: expected a directory, such as {flag} {example}")
    return path


def _collect(argv: Sequence[str]) -> int:
    from meta_train.cli import _parse, _quiet_libraries

    preset, rest = _preset(argv)
    args = _parse(CollectArgs, rest, command="nowcast collect PRESET", default=CollectArgs(preset.collect))
    out = _given("--out", args.out, "runs/trajectories")
    _quiet_libraries()
    from meta_train.nowcast.collect import collect

    manifest = collect(args.config, out)
    lost = sum(run["diverged"] for run in manifest["runs"])
    print(f"{len(manifest['runs']) - lost} trajectories of {len(manifest['tasks'])} tasks ({lost} diverged): {out}")
    return 0


def _train(argv: Sequence[str]) -> int:
    from meta_train.cli import _parse, _quiet_libraries

    preset, rest = _preset(argv)
    args = _parse(TrainArgs, rest, command="nowcast train PRESET", default=TrainArgs(preset.train))
    data, out = _given("--data", args.data, "runs/trajectories"), _given("--out", args.out, "runs/wnn")
    _quiet_libraries()
    from meta_train.nowcast.train import train

    outcome = train(args.config, data, out)
    if outcome.results is None:
        number = outcome.signal or 0
        name = signal.Signals(number).name
        print(f"stopped by {name} at step {outcome.step}, saved in {out}; repeat the command to go on")
        return 128 + number
    print(
        f"error on held-out runs: {outcome.results['ratio']:.3f} of that of the last state\n\n"
        "  from learned_opt import nowcast\n  from learned_opt.nowcast import released\n"
        f"  network, theta, card = released.load({str(out)!r})\n"
        "  opt = nowcast.nowcast(inner, network, theta, num_steps=num_steps, period=250, wiring=wiring)"
    )
    return 0


def _evaluate(argv: Sequence[str]) -> int:
    from meta_train.cli import _parse, _quiet_libraries

    args = _parse(EvaluateArgs, argv, command="nowcast evaluate")
    _quiet_libraries()
    from meta_train.nowcast.evaluate import evaluate

    result = evaluate(args.contenders.split(","), args.config, args.out)
    for name, ratios in result["overall"].items():
        shown = ", ".join(f"{x:.2f} to {float(share):.0%}" for share, x in ratios.items() if x is not None)
        print(f"  {name}: {shown or 'none'}")
    print(f"ratios of steps to those of AdamW; {args.out / 'results.md'}, {args.out / 'results.json'}")
    return 0
