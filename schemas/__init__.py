"""What the words mean: events, fingerprints, error codes, names and settings. Bytes become types only here."""
