"""Typed clients of every service: what users and the services themselves call each other with."""
