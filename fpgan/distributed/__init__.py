"""Many devices and many processes: how arrays are spread, how processes meet, share work, and end together."""
