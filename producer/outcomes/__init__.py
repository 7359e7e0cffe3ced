"""Output of a worker: pictures and decided outcomes in the store, completions and dead letters as records."""
