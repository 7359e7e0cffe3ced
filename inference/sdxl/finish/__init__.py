"""The finish lane: from latents to pixels to an encoded file."""
