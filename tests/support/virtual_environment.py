"""Packages in another virtual environment."""

import sys
from pathlib import Path


def pip_for(python: Path) -> list[str]:
    """Return a pip command for the environment of this Python, which needs no pip of its own: that takes seconds."""
    return [sys.executable, "-m", "pip", "--python", str(python)]
