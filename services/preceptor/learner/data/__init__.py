"""Training data from files: rows that are broken are errors naming file and line, or counted where one can go on."""
