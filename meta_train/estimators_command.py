"""`learned-opt estimators`: published experiments on meta-gradient estimators. Parsed before JAX is imported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from learned_opt.errors import InputError
from meta_train.errors import RunFailed
from meta_train.studies import NAMES


@dataclass(frozen=True)
class EstimatorsArgs:
    """Reproduce published experiments on meta-gradient estimators: numbers as JSON, figures as PNG."""

    out: Path
    """Directory of the results: STUDY.json and STUDY.png."""
    studies: str = ",".join(NAMES)
    """Comma separated; all by default."""


def estimators_command(argv: Sequence[str]) -> int:
    """`learned-opt estimators`; returns the exit status.

    Raises:
      InputError: bad arguments or an unknown study.
      RunFailed: a study missed its figure; all results are written.
    """
    from meta_train import studies
    from meta_train.cli import _parse

    args = _parse(EstimatorsArgs, argv, command="estimators")
    names = [name.strip() for name in args.studies.split(",") if name.strip()]
    if not names:
        raise InputError(f"--studies is empty: expected some of {', '.join(NAMES)}")
    missed = []
    for result in studies.run(names, args.out):
        print(f"{result.name}: {NAMES[result.name]}")
        for check in result.checks:
            print(
                f"  {'ok    ' if check.holds else 'MISSED'} {check.what}: {check.value:.4g}, expected {check.expected}"
            )
        missed += [f"{result.name}: {check.what}" for check in result.checks if not check.holds]
    print(args.out)
    if missed:
        raise RunFailed(f"{len(missed)} figures missed: {'; '.join(missed)}; see the JSON files in {args.out}")
    return 0
