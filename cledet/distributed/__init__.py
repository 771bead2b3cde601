"""Several processes of one command: environment, collectives, devices and launch."""
