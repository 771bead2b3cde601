"""Paired comparison of runs, with confidence intervals."""
