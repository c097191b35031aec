"""SecantusDB's server, as its own command starts it, with the retries of writes as MongoDB has them.

A driver sends a write again whose answer was lost, and the server then answers what it did the first time. SecantusDB
takes it for another write if less of the caller's time is left, does it again, and says that there was nothing to do.
"""

import sys

from secantus import commands
from secantus.cli import main

commands._RETRY_IDENTITY_IGNORED |= {"maxTimeMS"}

if __name__ == "__main__":
    sys.exit(main())
