"""helm on real data that no suite reads, beside tuned baselines: pictures, characters, text and tables.

    python benchmarks/real_data.py FOLDER [--steps 1000] [--seeds 3] [--only covertype usps] [--out FILE.jsonl]

FOLDER holds the arrays as published (see `TASKS`), which are not shipped; sets that are missing are named and left out.
The optimizer has one trial; Adam at a constant rate, Schedule-Free AdamW, and AdamW with warm-up and cosine have the
best of seven rates each, chosen on the very seeds, for training and validation loss apart. One JSON line a task and
horizon with the mean losses; the last line counts where the optimizer ends lower, and has the geometric mean of the
ratios of losses (those below `FLOOR` count as that).
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from scipy import stats

from meta_train.evaluate import budget, contenders
from meta_train.evaluate.contenders import Contender
from meta_train.evaluate.sweep import sweep
from tasks.data import Dataset, on_device, resize_images, to_grey
from tasks.families.autoencoder import Autoencoder, half_loss
from tasks.families.image_conv import ImageConv
from tasks.families.image_mlp import ImageMLP
from tasks.families.resnet import ResNet
from tasks.families.rnn_lm import RNNLM
from tasks.families.tabular_mlp import TabularClassifier, TabularRegressor
from tasks.families.transformer_lm import TransformerLM
from tasks.model_task import ModelTask
from tasks.sources import Examples, Windows

FLOOR = 1e-4
BASELINES = {"adam": ("adam", "constant"), "schedule_free": ("schedule_free_adamw", "constant")}
BASELINES |= {"adamw_cosine": ("adamw", "warmup_cosine")}


def dataset(name: str, train: dict[str, Any], valid: dict[str, Any], classes: int | None) -> Dataset:
    """Arrays on the device; pictures as shares of 255, with an axis of channels."""

    def converted(key: str, array: np.ndarray) -> np.ndarray:
        if key == "image":
            array = array if array.ndim == 4 else array[..., None]
            return array.astype(np.float32) / 255
        return array.astype(np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32)

    split = lambda of: on_device({key: converted(key, x) for key, x in of.items()})
    return Dataset(split(train), split(valid), name, classes)


def pictures(folder: Path, file: str) -> Dataset:
    """train_x, train_y, test_x, test_y of a file."""
    z = np.load(folder / file)
    of = lambda split: {"image": z[f"{split}_x"], "label": z[f"{split}_y"].astype(np.int32)}
    return dataset(Path(file).stem, of("train"), of("test"), int(z["train_y"].max()) + 1)


def characters(folder: Path) -> Dataset:
    """Omniglot by alphabet, drawers 16 to 20 held out, 14 x 14."""
    z = np.load(folder / "omniglot/omniglot_small_28.npz")
    seen = z["drawer"] <= 15
    of = lambda rows: {"image": z["x"][rows], "label": z["alphabet"][rows].astype(np.int32)}
    return resize_images(dataset("omniglot", of(seen), of(~seen), 8), 14)


def text(folder: Path, file: str) -> Dataset:
    """Characters; the last tenth is held out. Names come in order of how frequent they are, and are shuffled."""
    lines = (folder / "text" / file).read_text("utf-8").splitlines(keepends=True)
    if file == "names.txt":
        lines = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))]
    token = np.unique(np.array([*"".join(lines)]), return_inverse=True)[1].astype(int)
    cut = len(token) * 9 // 10
    return dataset(Path(file).stem, {"token": token[:cut]}, {"token": token[cut:]}, int(token.max()) + 1)


def table(
    name: str,
    numbers: Shaped[np.ndarray, "N F"],
    codes: list[np.ndarray],
    target: np.ndarray,
    held: Shaped[np.ndarray, " N"],
) -> Dataset:
    """Numbers standardised by the training rows, codes one-hot; integer targets are classes, others standardised."""
    one_hot = [np.eye(int(c.max()) + 1, dtype=np.float32)[c] for c in codes]
    mean, deviation = numbers[~held].mean(0, keepdims=True), numbers[~held].std(0, keepdims=True)
    x = np.concatenate([(numbers - mean) / np.maximum(deviation, 1e-6), *one_hot], axis=1)
    classes, y = None, "y"
    if np.issubdtype(target.dtype, np.integer):
        classes, y = int(target.max()) + 1, "label"
    else:
        target = (target - target[~held].mean()) / target[~held].std()
    return dataset(name, {"x": x[~held], y: target[~held]}, {"x": x[held], y: target[held]}, classes)


def shuffled(n: int) -> np.ndarray:
    """A fifth of the rows, to hold out."""
    return np.random.default_rng(0).permutation(n) < n // 5


def covertype(folder: Path) -> Dataset:
    """Forest cover from terrain, 7 classes."""
    z = np.load(folder / "tabular/covtype_10k.npz")
    y = z["y"].astype(np.int32)
    codes = [z["wilderness"], z["soil"]]
    return table("covertype", z["x_num"].astype(np.float32), codes, y - y.min(), shuffled(len(y)))


def adult(folder: Path) -> Dataset:
    """Income above a bound."""
    z = np.load(folder / "tabular/adult.npz")
    both = lambda name: np.concatenate([z[f"train_{name}"], z[f"test_{name}"]])
    held = np.arange(len(both("y"))) >= len(z["train_y"])
    return table("adult", both("num"), [*both("cat").T], both("y").astype(np.int32), held)


def wine(folder: Path) -> Dataset:
    """Quality of white wines, a number."""
    z = np.load(folder / "tabular/wine_quality.npz")
    return table("wine_quality", z["white_x"], [], z["white_y"].astype(np.float32), shuffled(len(z["white_y"])))


def classifier(data: Dataset, model: Callable[[int], Any], batch_size: int = 128) -> ModelTask:
    """A task of independent examples."""
    return ModelTask(source := Examples(data), model(source.classes), data.name, batch_size=batch_size)


def language(data: Dataset, length: int, model: Callable[[int], Any]) -> ModelTask:
    """A task of windows of text."""
    return ModelTask(source := Windows(data, length), model(source.classes), data.name, batch_size=32)


def encoder(data: Dataset) -> ModelTask:
    """An autoencoder."""
    source = Examples(data)
    return ModelTask(source, Autoencoder((64, 16, 64), "relu", half_loss(source)), data.name)


TASKS: dict[str, Callable[[Path], ModelTask]] = {
    "fashion_mnist_mlp": lambda f: classifier(
        pictures(f, "fashion_mnist/fashion_mnist_20k.npz"), lambda c: ImageMLP((128,), "relu", c)
    ),
    "fashion_mnist_conv": lambda f: classifier(
        resize_images(pictures(f, "fashion_mnist/fashion_mnist_20k.npz"), 14),
        lambda c: ImageConv((8, 16), 2, "none", "relu", c),
    ),
    "mnist_autoencoder": lambda f: encoder(resize_images(pictures(f, "mnist/mnist.npz"), 14)),
    "cifar10_resnet": lambda f: classifier(
        resize_images(pictures(f, "cifar10/cifar10_8k.npz"), 16),
        lambda c: ResNet((8, 16), (1, 1), 1, "batch", "relu", c),
        64,
    ),
    "cifar10_grey_mlp": lambda f: classifier(
        to_grey(resize_images(pictures(f, "cifar10/cifar10_8k.npz"), 16)), lambda c: ImageMLP((96, 96), "gelu", c)
    ),
    "usps_mlp": lambda f: classifier(pictures(f, "usps/usps.npz"), lambda c: ImageMLP((64, 64, 64), "tanh", c), 32),
    "omniglot_conv": lambda f: classifier(characters(f), lambda c: ImageConv((12, 12), 2, "layer", "gelu", c), 64),
    "shakespeare_transformer": lambda f: language(
        text(f, "tinyshakespeare.txt"), 32, lambda c: TransformerLM(32, 2, 2, 32, c)
    ),
    "war_and_peace_gru": lambda f: language(text(f, "warandpeace.txt"), 32, lambda c: RNNLM("gru", 48, 32, c)),
    "names_lstm": lambda f: language(text(f, "names.txt"), 24, lambda c: RNNLM("lstm", 32, 24, c)),
    "covertype_mlp": lambda f: classifier(covertype(f), lambda c: TabularClassifier((64, 64), "relu", c)),
    "adult_mlp": lambda f: classifier(adult(f), lambda c: TabularClassifier((32,), "relu", c)),
    "wine_quality_mlp": lambda f: ModelTask(
        Examples(wine(f)), TabularRegressor((64, 64), "silu"), "wine_quality", batch_size=64
    ),
}
"""Files: fashion_mnist/fashion_mnist_20k.npz, mnist/mnist.npz, cifar10/cifar10_8k.npz, usps/usps.npz (train_x, train_y,
test_x, test_y), omniglot/omniglot_small_28.npz (x, alphabet, drawer), text/*.txt, tabular/covtype_10k.npz (x_num,
wilderness, soil, y), tabular/adult.npz (train_num, train_cat, train_y, test_…), tabular/wine_quality.npz (white_x,
white_y)."""


def made(folder: Path, only: tuple[str, ...] = ("",)) -> Iterator[tuple[str, ModelTask]]:
    """Tasks whose names begin so, one at a time; prints which are left out because a file is missing."""
    for name, make in TASKS.items():
        if not name.startswith(only):
            continue
        try:
            task = make(folder)
        except FileNotFoundError as e:
            print(f"{name}: left out, no file {e.filename}", flush=True)
            continue
        yield name, task


def entrants(optimizer: str) -> dict[str, Contender]:
    """The optimizer with one trial, and the baselines with seven rates each."""
    found = {optimizer: contenders.resolve(optimizer, trials=1)}
    for label, (name, schedule) in BASELINES.items():
        whole = contenders.baseline(name, len(budget.SCHEDULES) * budget.RATES)
        place = budget.SCHEDULES.index(schedule) * budget.RATES
        found[label] = replace(whole, trials=whole.trials[place : place + budget.RATES])
    return found


def main() -> None:
    """Train, print, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--optimizer", default="helm", help="a hands-free release or run")
    parser.add_argument("--steps", type=int, nargs="+", default=[1000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[""], help="names of tasks, or beginnings of them")
    parser.add_argument("--out", type=Path, help="adds the lines to a file")
    args = parser.parse_args()
    rows, all_entrants = [], entrants(args.optimizer)
    for name, task in made(args.folder, tuple(args.only)):
        for steps in args.steps:
            row: dict[str, Any] = {"task": name, "steps": steps, "seeds": args.seeds}
            for label, contender in all_entrants.items():
                runs = sweep(task, contender, steps=steps, seeds=args.seeds, seed=0)
                worst = lambda x: np.nan_to_num(np.asarray(x, float), nan=np.inf).mean(1)
                train, valid = worst(runs.final_train_loss), worst(runs.valid_losses[:, :, -1])
                row[label] = {"train": float(train.min()), "valid": float(valid.min())}
                if len(train) > 1:
                    row[label]["rate"] = contender.trials[int(train.argmin())]["learning_rate"]
            rows.append(row)
            print(line := json.dumps(row), flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(f"{line}\n")
    found: dict[str, Any] = {"optimizer": args.optimizer, "runs": len(rows)}
    for label in BASELINES if rows else ():
        for kind in ("train", "valid"):
            pairs = [(row[args.optimizer][kind], row[label][kind]) for row in rows]
            found[f"{kind}, lower than {label}"] = sum(a <= b for a, b in pairs)
            ratios = [max(a, FLOOR) / max(b, FLOOR) for a, b in pairs]
            found[f"{kind}, ratio to {label}"] = round(float(stats.gmean(ratios)), 4)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
