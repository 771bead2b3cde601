"""Readers of detections that any detector has written, recognised by content."""
