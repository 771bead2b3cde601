"""The dataset doctor."""
