"""Backup and restore: both databases and the artifacts they name, as one folder that any store can be filled from."""
