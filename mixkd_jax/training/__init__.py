"""Training of models, alone or side by side: states, steps, loop, checkpoints and sharding."""
