"""Distributed training: environment, collectives, devices and launch."""
