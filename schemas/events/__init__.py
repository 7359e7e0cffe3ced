"""The event models, version 1, and what other tools write in their place."""
