"""A device that sleeps instead of denoising: for benches, chaos tests and planning."""
