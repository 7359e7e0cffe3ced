"""Whatever puts something out: outcomes and pictures of a worker (`results`), requests of a client (`requests`)."""
