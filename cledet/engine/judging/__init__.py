"""What a detector is worth on a split: candidates, what NMS makes of them, figures."""
