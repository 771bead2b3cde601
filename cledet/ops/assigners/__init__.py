"""Anchor assigners: each a pure function on tensors."""
