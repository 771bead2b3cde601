"""Downloading and extracting the data sets that ship as YAML files."""
