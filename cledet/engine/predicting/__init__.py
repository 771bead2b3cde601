"""Detections of single images."""
