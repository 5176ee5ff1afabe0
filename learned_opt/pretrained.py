"""Released weights: a folder with `weights.safetensors` and `card.json`.

    weights.safetensors   theta, one tensor per leaf, named by its path ("layers/0/w"); no pickle anywhere
    card.json             format, rule (name, settings), weights (sha256, count), recipe, data, seed, horizons, sizes,
                          results, versions, licence

Releases lie in `checkpoints/` beside this package; a finished meta-training run is such a folder too.
"""

import dataclasses
import difflib
import hashlib
import importlib.metadata
import inspect
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors
import safetensors.numpy
from jaxtyping import Array, Int

from learned_opt import __version__, rules
from learned_opt.errors import InputError, WeightsError
from learned_opt.rules.base import Rule, template

FORMAT = "learned_opt/1"
WEIGHTS, CARD = "weights.safetensors", "card.json"
CARD_FIELDS = ("recipe", "data", "seed", "horizons", "sizes", "results")
"""What the maker of weights tells of them; the rest of a card is filled in by `save_pretrained`."""
LICENCE = "Apache-2.0"
_BETWEEN = (
    "learned_opt",
    "optax",
    "jax",
    "haiku",
    "equinox",
    "flax",
    "contextlib",
    "functools",
    "jaxtyping",
    "beartype",
)
"""Packages between a user's line and a warning."""


class _Unstated(int):
    """A number of steps that the caller has not given."""


UNSTATED = _Unstated(10_000)
"""What `num_steps` counts as where it is not given."""


class Pretrained(NamedTuple):
    """A rule with its weights."""

    rule: Rule
    """Architecture with its settings."""
    theta: Any
    """Weights, as `rule.init` makes them."""
    card: dict[str, Any]
    """Contents of `card.json`."""

    @property
    def takes_learning_rate(self) -> bool:
        """Whether the weights are a direction, to be used with a learning rate, as far as the card tells."""
        recipe = self.card.get("recipe")
        return isinstance(recipe, Mapping) and "learning_rate" in recipe

    def transform(self, num_steps: int | Int[Array, ""] = UNSTATED) -> optax.GradientTransformationExtraArgs:
        """The optimizer for a training run of `num_steps` updates.

        Warns where the run is longer, or the model larger, than any that the weights were made on, as far as the card
        tells; and where the rule reads a number of steps that is not given.
        """
        opt, card = self.rule.transform(self.theta, num_steps=num_steps), self.card
        known = isinstance(num_steps, int | np.integer) and self.rule.name in rules.READ_NUM_STEPS
        if known and isinstance(num_steps, _Unstated):
            _warn(
                f"num_steps is not given, and {self.rule.name} divides its steps over it: 10000 is taken; give the "
                "number of updates that the training run will make"
            )
        elif known and (high := _highest(card["horizons"])) is not None and num_steps > high:
            _beyond(f"num_steps {num_steps}", f"training runs of up to {high} steps")
        if (largest := _highest(card["sizes"])) is None:
            return opt

        def init(params: Any) -> Any:
            if (size := sum(map(np.size, jax.tree.leaves(params)))) > largest:
                _beyond(f"{size} parameters", f"models of up to {largest}")
            return opt.init(params)

        return optax.GradientTransformationExtraArgs(init, opt.update)


def _highest(seen: Any) -> int | None:
    """The upper end of a range of the card, None where it states none."""
    high = seen.get("high") if isinstance(seen, Mapping) else None
    return high if isinstance(high, int) else None


def _beyond(what: str, seen: str) -> None:
    _warn(f"{what}: these weights were made on {seen}; compare with a tuned optimizer")


def _warn(message: str) -> None:
    """Warn at the line of the user's own code, however deep in other transforms, or in a trace, the caller is.

    Python shows a warning of one text and place once.
    """
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def list_pretrained() -> list[str]:
    """Names of the released weights."""
    folder = released_folder()
    return sorted(path.parent.name for path in folder.glob(f"*/{CARD}")) if folder.is_dir() else []


def from_pretrained(
    name_or_path: str | os.PathLike[str], num_steps: int | Int[Array, ""] = UNSTATED
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a release, or of a folder made by meta-training.

    Args:
      name_or_path: a name of `list_pretrained`, or a folder; a name wins over a folder that is called the same.
      num_steps: updates that the training run will make, for rules that read it, 10,000 if not given, with a warning;
        may be a traced integer.

    Raises:
      WeightsError: no such release or folder, or one that is damaged.
    """
    return load_pretrained(name_or_path).transform(num_steps)


def load_pretrained(name_or_path: str | os.PathLike[str]) -> Pretrained:
    """Rule, weights and card of a release or a folder; errors as in `from_pretrained`."""
    folder = _find(name_or_path)
    card = _read_card(folder)
    weights = _read_weights(folder, card)
    try:
        rule = rules.make_rule(card["rule"]["name"], card["rule"]["settings"])
    except InputError as error:
        raise WeightsError(f"{folder / CARD}: {error}") from error
    return Pretrained(rule, _unflatten(rule, weights, folder), card)


def save_pretrained(
    folder: Path, rule: Any, theta: Any, card: Mapping[str, Any], licence: str = LICENCE
) -> dict[str, Any]:
    """Write weights and card; returns the card as written.

    Args:
      folder: made if it is not there; files of an earlier save are replaced, each in one move.
      rule: a rule of `learned_opt.rules`.
      theta: its weights.
      card: the fields of `CARD_FIELDS`, all of them, JSON values.
      licence: of the weights; the project's own by default, so give that of weights from elsewhere.

    Raises:
      InputError: a field of the card is missing or unknown.
    """
    if set(card) != set(CARD_FIELDS):
        odd = sorted(set(card) ^ set(CARD_FIELDS))
        raise InputError(f"card fields {', '.join(odd)} are missing or unknown: expected {', '.join(CARD_FIELDS)}")
    # In C order: safetensors writes the memory as it lies.
    tensors = {name: np.asarray(value, order="C") for name, value in _flatten(theta).items()}
    data = safetensors.numpy.save(tensors, metadata={"format": FORMAT})
    whole = {
        "format": FORMAT,
        "rule": {"name": rule.name, "settings": dataclasses.asdict(rule)},
        "weights": {
            "sha256": hashlib.sha256(data).hexdigest(),
            "count": sum(x.size for x in tensors.values()),
        },
        **{field: card[field] for field in CARD_FIELDS},
        "versions": _versions(),
        "licence": licence,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / WEIGHTS, data)
    _replace(folder / CARD, (json.dumps(whole, indent=2) + "\n").encode())
    return whole


def released_folder() -> Path:
    """Where releases lie: `checkpoints/` beside this package, in a checkout and in an installation.

    Found by location and not by import: a user's own package `checkpoints` must not get in the way.
    """
    return Path(__file__).resolve().parent.parent / "checkpoints"


def _find(name_or_path: str | os.PathLike[str]) -> Path:
    released = list_pretrained()
    known = f"released: {', '.join(released) or 'none'}"
    if not isinstance(name_or_path, str | os.PathLike) or not str(name_or_path):
        raise WeightsError(f"{name_or_path!r} is no name and no folder: {known}")
    if str(name_or_path) in released:
        return released_folder() / str(name_or_path)
    path = Path(name_or_path)
    if (path / CARD).is_file():
        return path
    if path.is_dir():
        raise WeightsError(
            f"{path} holds no {CARD}: expected a folder with {WEIGHTS} and {CARD}; a run writes them when it ends, "
            "continue it with the command that began it"
        )
    near = difflib.get_close_matches(str(name_or_path), released, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else known
    raise WeightsError(f"no released optimizer and no folder {str(name_or_path)!r}: {hint}")


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / CARD).read_text())
        if card["format"] != FORMAT:
            raise WeightsError(f"{folder / CARD}: format {card['format']!r}, expected {FORMAT!r}; update learned-opt")
        texts = card["rule"]["name"], card["weights"]["sha256"]
        _ = [text.encode() for text in texts], dict(card["rule"]["settings"])
        _ = [card[field] for field in CARD_FIELDS]
    except WeightsError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{folder / CARD} is not a card of format {FORMAT} ({type(error).__name__}: {error}); "
            "repeat the command that made it"
        ) from error
    return card


def _read_weights(folder: Path, card: Mapping[str, Any]) -> dict[str, np.ndarray]:
    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); repeat the command that made it") from error
    found, expected = hashlib.sha256(data).hexdigest(), card["weights"]["sha256"]
    if found != expected:
        raise WeightsError(
            f"{path} has sha256 {found[:12]}…, its card says {expected[:12]}…: "
            "the file is truncated or belongs to other weights; repeat the command that made it"
        )
    try:
        return safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file ({error}); repeat the command that made it") from error


def _unflatten(rule: Rule, weights: Mapping[str, np.ndarray], folder: Path) -> Any:
    shapes = template(rule)
    expected = {name: tuple(leaf.shape) for name, leaf in _flatten(shapes).items()}
    found = {name: tuple(leaf.shape) for name, leaf in weights.items()}
    if found != expected:
        odd = sorted({name for name, _ in found.items() ^ expected.items()})[0]
        raise WeightsError(
            f"{folder / WEIGHTS}: tensor {odd!r} has shape {found.get(odd, 'none')}, rule {rule.name!r} expects "
            f"{expected.get(odd, 'none')}; the weights belong to another rule or other settings"
        )
    leaves = [jnp.asarray(weights[name]) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _flatten(theta: Any) -> dict[str, Any]:
    path_name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(theta)[0]}


def _versions() -> dict[str, str]:
    libraries = ("jax", "optax", "dm-haiku", "numpy")
    return {"learned-opt": __version__} | {name: importlib.metadata.version(name) for name in libraries}


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(data)
    temporary.replace(path)
