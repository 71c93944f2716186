"""The conductor's hands: supervisord, and the other services over gRPC."""
