"""Scorers: turn stored rows into measurements, one file per family of metrics."""
