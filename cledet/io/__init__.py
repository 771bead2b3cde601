"""File input and output: atomic writes, safe reading of weights, run folders, provenance."""
