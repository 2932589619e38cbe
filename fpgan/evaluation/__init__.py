"""Measures of quality, detection and robustness: functions from arrays to numbers."""
