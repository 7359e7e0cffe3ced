"""The object store: the protocol, the S3 implementation, and one in memory for tests and simulations."""
