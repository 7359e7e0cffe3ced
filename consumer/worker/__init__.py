"""The worker process: settings in, a driver between the core and the real edges out."""
