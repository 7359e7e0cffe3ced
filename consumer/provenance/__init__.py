"""Content credentials: signs pictures with the operator's certificate (C2PA), and checks signed ones."""
