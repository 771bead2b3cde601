"""Search for the NMS settings that suit a detector."""
