"""Detectors from elsewhere: each project's names of weights, and what they leave unsaid, turned into ours."""
