"""What is shown: boxes on pictures, plots, and the pages that hold them."""
