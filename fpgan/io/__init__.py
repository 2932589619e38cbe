"""Bytes in and out: files, images, records, listings, tables; nothing here knows what a fingerprint is."""
