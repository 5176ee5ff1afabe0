"""Rows and curves of made-up training runs, and their summary."""

import numpy as np

from meta_train.evaluate import judge

CONFIGURATION = {"suite": "s", "steps": 10}


def rows(task, optimizer, trials, kind="baseline", valid=None, first=100.0):
    """`trials`: final training losses [trial][seed], None where diverged; `valid`: likewise, else 1 higher."""
    rated = kind == "baseline"
    return [
        {
            "task": task,
            "optimizer": optimizer,
            "kind": kind,
            "trial": trial,
            "learning_rate": 10.0 ** (trial - 3) if rated else None,
            "schedule": "constant" if rated else None,
            "weight_decay": 0.0 if rated else None,
            "seed": seed,
            "steps": 10,
            "mean_train_loss": None if loss is None else 10 - loss,  # the reverse of the final one
            "first_train_loss": first,
            "final_train_loss": loss,
            "final_valid_loss": None if loss is None else loss + 1 if valid is None else valid[trial][seed],
            "diverged": loss is None,
            "diverged_at": None if loss is not None else 3,
            "seconds": 0.5,
        }
        for trial, losses in enumerate(trials)
        for seed, loss in enumerate(losses)
    ]


def curves(group):
    """Straight lines from 10 to the final losses, over 10 updates."""
    step, moments = np.arange(10), np.array([0, 5, 10])
    shape = (1 + max(row["trial"] for row in group), 1 + max(row["seed"] for row in group))
    loss, valid = np.full((*shape, 10), np.nan, np.float32), np.full((*shape, 3), np.nan, np.float32)
    for row in group:
        if not row["diverged"]:
            at = row["trial"], row["seed"]
            loss[at] = 10 + (row["final_train_loss"] - 10) * step / 9
            valid[at] = 10 + (row["final_valid_loss"] - 10) * moments / 10
    return {"loss": loss, "step": step, "valid_loss": valid, "valid_step": moments}


def summarize(*groups, **more):
    by_pair = {(group[0]["task"], group[0]["optimizer"]): group for group in groups}
    found = lambda task, name: curves(by_pair[task, name])
    return judge.summarize(
        by_pair, CONFIGURATION, **{"compile_seconds": lambda task, name: 2.0, "curves": found, **more}
    )


ADAM = rows("t", "adam", [[5.0, 6.0, 7.0], [3.0, 4.0, 5.0], [4.0, 4.0, 4.5]])
SGD = rows("t", "sgd", [[4.0, 5.0, 6.0], [7.0, 7.0, 7.5], [9.0, None, 9.0]])
MINE = rows("t", "mine", [[1.5, 2.1, 2.4]], "learned")
