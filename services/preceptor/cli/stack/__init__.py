"""The embedded system: every service as a process of its own on loopback, under supervisord."""
