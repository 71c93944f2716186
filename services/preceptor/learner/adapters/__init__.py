"""The learner's ends towards Redis, Celery, the artifact store and the reward service."""
