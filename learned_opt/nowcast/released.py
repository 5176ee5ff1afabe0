"""Trained nowcasting networks: a folder with `weights.safetensors` and `card.json`, as learned optimizers have.

    weights.safetensors   theta, one tensor per leaf, named by its path ("layers/0/w")
    card.json             format, network (name, settings), weights (sha256, count), recipe, data, seed, horizons,
                          sizes, results, versions, licence

    network, theta, card = released.load("runs/wnn")
    opt = nowcast.nowcast(optax.adamw(1e-3), network, theta, num_steps=2000, period=250)

Releases lie in `checkpoints/nowcast/`, apart from those of learned optimizers.
"""

import dataclasses
import difflib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from learned_opt import __version__
from learned_opt.containers import Tensors, Unreadable, read_safetensors
from learned_opt.errors import InputError, WeightsError
from learned_opt.nowcast.nino import NiNo
from learned_opt.nowcast.wiring import named
from learned_opt.nowcast.wnn import WNN
from learned_opt.pretrained import CARD, CARD_FIELDS, LICENCE, WEIGHTS, released_folder

FORMAT = "learned_opt.nowcast/1"
NETWORKS: dict[str, type[WNN] | type[NiNo]] = {"WNN": WNN, "NiNo": NiNo}
"""Networks with weights, by the name in a card."""


class Released(NamedTuple):
    """A network with its weights."""

    network: WNN | NiNo
    theta: Any
    """Weights, as `network.init` makes them."""
    card: dict[str, Any]
    """Contents of `card.json`."""


def names() -> list[str]:
    """Names of the released networks."""
    folder = _folder()
    return sorted(path.parent.name for path in folder.glob(f"*/{CARD}")) if folder.is_dir() else []


def load(name_or_path: str | os.PathLike[str]) -> Released:
    """Network, weights and card of a release, or of a folder made by `learned-opt nowcast train`.

    Args:
      name_or_path: a name of `names`, or a folder; a name wins over a folder that is called the same.

    Raises:
      WeightsError: no such release or folder, or one that is damaged.
    """
    folder = _find(name_or_path)
    card = _read_card(folder)
    try:
        network = NETWORKS[card["network"]["name"]](**card["network"]["settings"])
    except (KeyError, TypeError, InputError) as error:
        raise WeightsError(
            f"{folder / CARD}: network {card['network']!r} cannot be made ({error}): expected one of "
            f"{', '.join(NETWORKS)} with its settings; update learned-opt"
        ) from error
    template = jax.eval_shape(network.init, jax.random.key(0))
    expected = {name: tuple(leaf.shape) for name, leaf in named(template).items()}
    weights = _read_weights(folder / WEIGHTS, card["weights"]["sha256"])
    found = {name: x.shape for name, x in weights.items()}
    if found != expected:
        odd = sorted({name for name, _ in found.items() ^ expected.items()})[0]
        raise WeightsError(
            f"{folder / WEIGHTS}: tensor {odd!r} has shape {found.get(odd, 'none')}, the network of its card expects "
            f"{expected.get(odd, 'none')}; repeat the command that made it"
        )
    leaves = [jnp.asarray(weights[name], jnp.float32) for name in expected]
    return Released(network, jax.tree.unflatten(jax.tree.structure(template), leaves), card)


def save(
    folder: Path, network: WNN | NiNo, theta: Any, card: Mapping[str, Any], licence: str = LICENCE
) -> dict[str, Any]:
    """Write weights and card, each in one move; returns the card as written.

    Args:
      folder: made if it is not there.
      network: with its settings.
      theta: its weights.
      card: the fields of `learned_opt.pretrained.CARD_FIELDS`, all of them, JSON values.
      licence: of the weights.

    Raises:
      InputError: a field of the card is missing or unknown, or the network has no weights.
    """
    if set(card) != set(CARD_FIELDS):
        odd = sorted(set(card) ^ set(CARD_FIELDS))
        raise InputError(f"card fields {', '.join(odd)} are missing or unknown: expected {', '.join(CARD_FIELDS)}")
    name = type(network).__name__
    if NETWORKS.get(name) is not type(network):
        raise InputError(f"network {network!r}: expected one of {', '.join(NETWORKS)}")
    # In C order: safetensors writes the memory as it lies.
    tensors = {path: np.asarray(x, order="C") for path, x in named(theta).items()}
    data = safetensors.numpy.save(tensors, metadata={"format": FORMAT})
    libraries = ("jax", "optax", "numpy")
    whole = {
        "format": FORMAT,
        "network": {"name": name, "settings": dataclasses.asdict(network)},
        "weights": {"sha256": hashlib.sha256(data).hexdigest(), "count": sum(x.size for x in tensors.values())},
        **{field: card[field] for field in CARD_FIELDS},
        "versions": {"learned-opt": __version__} | {name: importlib.metadata.version(name) for name in libraries},
        "licence": licence,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in ((WEIGHTS, data), (CARD, (json.dumps(whole, indent=2) + "\n").encode())):
        partial = folder / f"{path}.partial"
        partial.write_bytes(content)
        partial.replace(folder / path)
    return whole


def _folder() -> Path:
    return released_folder() / "nowcast"


def _find(name_or_path: str | os.PathLike[str]) -> Path:
    released, path = names(), Path(name_or_path)
    if str(name_or_path) in released:
        return _folder() / str(name_or_path)
    if (path / CARD).is_file():
        return path
    if path.is_dir():
        raise WeightsError(f"{path} holds no {CARD}: a run writes it when it ends, repeat its command to go on")
    near = difflib.get_close_matches(str(name_or_path), released, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"released: {', '.join(released) or 'none'}"
    raise WeightsError(f"no released network and no folder {str(name_or_path)!r}: {hint}")


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / CARD
    try:
        card = json.loads(path.read_text())
        if card["format"] != FORMAT:
            raise WeightsError(f"{path}: format {card['format']!r}, expected {FORMAT!r}: it is no nowcasting network")
        _ = card["network"]["name"], dict(card["network"]["settings"]), card["weights"]["sha256"]
    except WeightsError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} is not a card of format {FORMAT} ({type(error).__name__}: {error}); "
            "repeat the command that made it"
        ) from error
    return card


def _read_weights(path: Path, expected: str) -> Tensors:
    try:
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise WeightsError(
                f"{path} has sha256 {found[:12]}…, its card says {str(expected)[:12]}…: it is truncated or belongs to "
                "other weights; repeat the command that made it"
            )
        return read_safetensors(data)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); repeat the command that made it") from error
    except Unreadable as error:
        raise WeightsError(f"{path} {error}") from error
