"""A folder for PYTHONPATH that hides the package rich, which only tools of the tests need.

structlog imports it where it is installed: a seventh of the start of a service. Users have none.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
