"""Learner jobs as Kubernetes Jobs."""
