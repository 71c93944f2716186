"""Several learner ranks: torch's process group, FSDP2, and how rank 0 leads the others."""
