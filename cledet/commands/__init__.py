"""The subcommands: flags become settings, settings go to the Detector, results are shown."""
