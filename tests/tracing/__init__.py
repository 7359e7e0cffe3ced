"""Traces as a collector gets them: a stand-in for one, the proof, and a demonstration that writes a file."""
