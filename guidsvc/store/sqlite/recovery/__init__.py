"""Recovery of a SQLite file after the end of a process, a full disk, damage, or the replacement of its files."""
