"""What detections are worth: figures, tables, intervals."""
