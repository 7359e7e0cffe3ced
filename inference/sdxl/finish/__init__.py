"""The finishing lane: latents to pixels to the bytes of a file."""
