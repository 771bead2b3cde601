"""What the paper's components do on one image."""
