"""The cost of a request in Python calls and in instructions, which do not depend on the speed of the machine."""
