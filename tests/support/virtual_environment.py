"""Packages in another virtual environment."""

import sys
from pathlib import Path


def pip_for(python: Path) -> list[str]:
    """Return the command of pip for the environment of this Python, which needs no pip: that takes seconds to make."""
    return [sys.executable, "-m", "pip", "--python", str(python)]
