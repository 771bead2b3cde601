"""Converters of detectors of other projects."""
