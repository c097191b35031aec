"""The composition root: opens, wires, serves, and closes everything that the settings configure."""
