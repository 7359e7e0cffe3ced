"""`python -m darkroom` is the command `darkroom`."""

from darkroom.command_line import main

main()
