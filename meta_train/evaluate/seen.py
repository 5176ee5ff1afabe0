"""Tasks of an evaluation that a learned optimizer may have been meta-trained on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from meta_train.evaluate.contenders import Contender
from meta_train.evaluate.summary import TrainedOn
from tasks.errors import InputError
from tasks.provenance import of_task, of_training, shared
from tasks.task import Task


def trained_on(
    contenders: Sequence[Contender], tasks: Sequence[Task], say: Callable[[str], None]
) -> dict[str, TrainedOn]:
    """Of each learned optimizer, what its card says, and the tasks that are not held out from it.

    Args:
      contenders: the optimizers.
      tasks: of the suite.
      say: told in a line of each optimizer with such tasks.
    """
    found = {c.name: _of_card(c.card, tasks) for c in contenders if c.kind == "learned"}
    for name, seen in found.items():
        if seen.shared:
            reasons = dict.fromkeys(reason for why in seen.shared.values() for reason in why)
            say(
                f"warning: {name} was made on {seen.distribution}, and {len(seen.shared)} of {len(tasks)} "
                f"tasks are not held out from it ({', '.join(reasons)}); judge it on another suite, such as held-out"
            )
    return found


def _of_card(card: Mapping[str, Any], tasks: Sequence[Task]) -> TrainedOn:
    data = card.get("data")
    family, drawn = (data.get("family"), data.get("tasks")) if isinstance(data, Mapping) else (None, None)
    if not isinstance(family, str):
        return TrainedOn(None, None)
    try:
        training = of_training(family, filter(lambda name: isinstance(name, str), drawn or ()))
    except InputError:  # of another version of the package
        return TrainedOn(family, None)
    why = {task.name: shared(of_task(task), training) for task in tasks}
    return TrainedOn(family, {name: reasons for name, reasons in why.items() if reasons})
