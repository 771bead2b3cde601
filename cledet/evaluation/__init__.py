"""Evaluation of models and of any detector's results on a split."""
