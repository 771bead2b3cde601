"""Backbones and their pretrained weights."""
