"""What the service stands on: vLLM and the artifact store."""
