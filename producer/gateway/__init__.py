"""The HTTP gateway: jobs in by HTTP, their state and pictures out, and the web page. Holds no state of its own."""
