"""Training: from settings to a finished run, or a grid of runs."""
