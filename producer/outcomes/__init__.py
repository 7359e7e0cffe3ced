"""What a worker puts out: pictures and decided outcomes in the store, completions and dead letters as records."""
