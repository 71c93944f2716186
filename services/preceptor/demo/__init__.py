"""The toy world of `make demo`: a corpus, a hidden gold preference, simulated raters, and the report of a run."""
