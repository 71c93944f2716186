"""GenerationService: a vLLM engine that takes new policy versions while it writes."""
