"""The way in: what publishes requests and follows what becomes of them."""
