"""Sample sets on disk: shards made by any number of processes, manifests, and their verification."""
