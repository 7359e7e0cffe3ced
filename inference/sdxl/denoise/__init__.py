"""The denoise lane: one step of rows that share nothing but their size."""
