"""The processes of one run: how they find each other, and how they stop and end together."""
