"""Typed settings of each command, and how defaults, recipes, environment and flags are merged."""
