"""The one HTTP front: the labelling page, the loop page, and REST for raters and tools."""
