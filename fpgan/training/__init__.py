"""Training: objective, state, phases, loop, checkpoints, logs."""
