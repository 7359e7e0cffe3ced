"""A device that sleeps instead of denoising: for benches, chaos and planning."""
