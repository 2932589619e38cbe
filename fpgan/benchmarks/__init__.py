"""Benchmarks: generating, decoding, training, whole sample sets, and how cost grows with devices."""
