"""The prompt policy in force in this process."""
