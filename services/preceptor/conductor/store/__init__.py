"""The conductor's own database."""
