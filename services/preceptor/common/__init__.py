"""What every service shares: settings, errors, servers and channels, Celery, telemetry, artifacts, discovery."""
