"""The NMS settings that suit a detector, and how far their gain is to be trusted."""
