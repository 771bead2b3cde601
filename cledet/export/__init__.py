"""Export to other runtimes, with a parity check against PyTorch."""
