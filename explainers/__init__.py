"""Explanation methods and interpretability probes, one file each, and the scorers of their rows."""
