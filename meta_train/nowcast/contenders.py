"""From names to what an evaluation compares.

    adamw, small-fc-digits, …       baselines and learned optimizers of `learned-opt list optimizers`
    lawa, line_fit, RELEASE         AdamW with jumps; RELEASE is a name or folder of a trained network, or a file that
                                    the authors of NiNo published (.pt)
    NAME@K                          horizon K instead of the published schedule; line_fit alone means line_fit@2
    NAME+RULE                       an acceptance rule of `meta_train.nowcast.rules`, or "cautious"
    NAME on OPTIMIZER               jumps on another optimizer than AdamW, a learned one too

Jumps have the trials of the optimizer under them: its rates are tuned for the jumps, too.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import optax

import learned_opt
from learned_opt import nowcast
from learned_opt.errors import InputError
from learned_opt.nowcast import LAWA, LineFit, Wiring, released
from meta_train.evaluate import baselines, contenders
from meta_train.evaluate.contenders import Contender, fingerprint
from meta_train.nowcast.cautious import Cautious
from meta_train.nowcast.rules import RULES

REFERENCE = "adamw"
PLAIN = {"lawa": LAWA(), "line_fit": LineFit()}
"""Networks without weights."""


class Entry(NamedTuple):
    """A contender before the task is known."""

    name: str
    jumps: bool
    of: Callable[[Wiring | None], Contender]
    """Wiring of the task, where it is known -> contender."""
    weights: str | None
    """SHA-256."""


def resolve(names: Sequence[str], *, trials: int, period: int) -> tuple[Entry, ...]:
    """The entries of a comparison, AdamW first.

    Raises:
      InputError: a name that means nothing, or is given twice.
      WeightsError: weights that cannot be used.
    """
    names = [name.strip() for name in names if name.strip()]
    names = [REFERENCE, *(name for name in names if name != REFERENCE)]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise InputError(f"contender {twice[0]!r} is given twice: expected each once; remove one")
    return tuple(_entry(name, trials, period) for name in names)


def _entry(name: str, trials: int, period: int) -> Entry:
    if name in baselines.TABLE or name.removesuffix("+tuned") in learned_opt.list_pretrained():
        made = contenders.resolve(name, trials=trials)
        return Entry(name, False, lambda wiring: made, fingerprint(made.theta))
    jumps, _, below = name.partition(" on ")
    parts = re.fullmatch(r"([^@+]+)(?:@(\d+))?((?:\+\w+)*)", jumps)
    if parts is None:
        raise InputError(f"contender {name!r}: expected NAME, NAME@HORIZON or NAME+RULE, such as line_fit@2+path")
    base, horizon, extras = parts[1], parts[2], parts[3].split("+")[1:]
    network, theta = _network(base)
    k = int(horizon) if horizon else (2 if base == "line_fit" else None)
    rules = [extra for extra in extras if extra != "cautious"]
    if odd := [rule for rule in rules if rule not in RULES] or rules[1:]:
        raise InputError(f"contender {name!r}: rule {odd[0]!r}, expected one of {', '.join(RULES)}, or cautious")
    network = Cautious(network) if "cautious" in extras else network
    accept = RULES[rules[0]] if rules else None
    # What is wrong with a horizon is said before anything is trained.
    nowcast.nowcast(optax.identity(), network, theta, num_steps=period, period=period, horizons=k)
    inner = contenders.resolve(below or REFERENCE, trials=trials)

    def of(wiring: Wiring | None) -> Contender:
        def make(thetas: Any, settings: Mapping[str, Any], steps: int) -> optax.GradientTransformation:
            return nowcast.nowcast(
                inner.make(thetas[0], settings, steps), network, thetas[1],
                num_steps=steps, period=period, horizons=k, wiring=wiring, accept=accept,
            )  # fmt: skip

        evaluation_params = lambda state, params: inner.evaluation_params(state.inner, params)
        return replace(inner, name=name, make=make, theta=(inner.theta, theta), evaluation_params=evaluation_params)

    return Entry(name, True, of, fingerprint((inner.theta, theta)))


def _network(name: str) -> tuple[Any, Any]:
    if name in PLAIN:
        return PLAIN[name], ()
    if name.endswith(".pt"):
        return nowcast.read_nino(name)
    network, theta, _ = released.load(name)
    return network, theta
