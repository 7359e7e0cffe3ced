"""The demo behind `make demo`: real servers, a worker of its own process, and requests that show each feature."""
