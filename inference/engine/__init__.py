"""The engine: one loop in three lanes over any device."""
