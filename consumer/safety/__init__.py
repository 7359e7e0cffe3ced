"""Looks at finished pictures before they are stored, by the deployment's own rules."""
