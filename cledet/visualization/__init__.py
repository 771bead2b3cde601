"""Boxes on pictures, plots and HTML pages."""
