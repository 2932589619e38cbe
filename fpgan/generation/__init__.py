"""Sets of generated images: what they are, making them in shards, and checking them against their manifest."""
