"""What makes a SQLite file usable again after the end of a process, a full disk or damage."""
