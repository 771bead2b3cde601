"""Prediction: from images to results."""
