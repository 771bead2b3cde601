"""Several processes of one command: where they meet, how they start, what each runs, and why they ended."""
