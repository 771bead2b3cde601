"""Detection in single images."""
