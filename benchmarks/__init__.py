"""What is measured, against what, with which command: see README.md. Nothing here is part of the program."""
