"""Models that ship with fpgan; see fpgan.load."""
