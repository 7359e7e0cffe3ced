"""From files to components: folders, checkpoints, LoRA files, and where each part is placed."""
