"""The effect of the paper's components on one image."""
