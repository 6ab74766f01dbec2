"""Training of one model: state, step, loop, checkpoints and sharding."""
