"""Many models at once, without calls of Python for each: their validation and their construction."""
