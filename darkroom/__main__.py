"""`python -m darkroom` is the command `darkroom`."""

from darkroom import main

main()
