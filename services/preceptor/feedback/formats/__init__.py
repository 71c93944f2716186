"""Preference data in files: the formats of the field, read into votes and written from rankings.

Pure functions, a row at a time; nothing here talks to a server. `importing.read_labels` reads, `exporting.Export`
writes. Parquet is not offered.
"""
