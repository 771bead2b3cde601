"""Whether two sets of detections differ by more than chance, and on which images."""
