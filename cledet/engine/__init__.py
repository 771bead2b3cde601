"""What the commands do with a detector: a room a subject, and in front of them what all rooms stand on."""
