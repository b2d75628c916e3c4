"""`python -m quantxai`."""

from quantxai.cli import main

main()
