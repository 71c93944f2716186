"""The rl learner's pump: which groups are issued, when, and what became of every attempt. Knows no transport."""
