"""The HTTP gateway: accepts jobs, serves their state, events and pictures, and the web page. Keeps no state."""
