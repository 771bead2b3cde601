"""The run folder of `cledet val`: metrics, plots and report.html."""
