"""The pattern of API keys and tokens, to find them in wrong places of a request."""

import re

CREDENTIAL = re.compile(
    r"((?i:gs_)\W{0,3}[0-9A-Za-z]{12}_)[\w\s]+"  # an API key, even if it is cut off or broken into lines
    r"|([0-9A-Za-z]{12}_)[0-9A-Za-z]{43}\w*"  # without its beginning
    r"|(eyJ)[\w-]{8,}[\w.-]*"  # a JWT, which begins with `{"` in Base64
    r"|(?<![\w-])(ew[0-3k-r]|ey[A-D])[\w-]{20,}[\w.-]*"  # one with whitespace behind the brace
)
"""An API key or a token. The group that matches is the part that may be shown, such as the id of the key."""
