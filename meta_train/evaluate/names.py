"""Names of the baselines with one-line descriptions; free of JAX, so that listing them is instant."""

BASELINES: dict[str, str] = {
    "adam": "Adam, b1 0.9, b2 0.999",
    "adamw": "AdamW, weight decay 1e-4",
    "lion": "Lion, b1 0.9, b2 0.99, weight decay 1e-3",
    "nadamw": "NAdamW (Nesterov), weight decay 1e-4",
    "rmsprop": "RMSProp, decay 0.9",
    "schedule_free_adamw": "Schedule-Free AdamW, b1 0.9, no weight decay, evaluated at its average",
    "sgd": "SGD with momentum 0.9",
}
"""Name -> description, in alphabetical order; `meta_train.evaluate.baselines.TABLE` holds the optimizers."""
