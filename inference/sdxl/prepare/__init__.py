"""The preparing lane: what prompt, pose and adapters become before the first step."""
