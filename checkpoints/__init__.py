"""Released weights: `<name>/weights.safetensors` and `<name>/card.json`."""
