"""What `cledet val` leaves in its run folder: the figures, and what went wrong."""
