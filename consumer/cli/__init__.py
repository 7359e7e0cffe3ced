"""The commands that run, check, plan and show workers. Nothing imports them but the command line."""
