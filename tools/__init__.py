"""Programs that make what Darkroom ships. Nothing imports them at run time."""
