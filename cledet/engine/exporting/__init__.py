"""Networks as files of other runtimes, proved to compute the same."""
