"""Copies of data sets: converted, divided, merged and sampled, with one writer per format."""
