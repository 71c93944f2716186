"""LoopService: runs the loop sft -> comparisons -> labels -> reward model -> rl, and owns registry and lineage."""
