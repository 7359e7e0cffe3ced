"""The prompt policy's words, and other tools' prompt syntax."""
