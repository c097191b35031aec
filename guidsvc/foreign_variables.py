"""Environment variables with the prefix of the settings that other programs set: Kubernetes and clients.

For every Service, Kubernetes adds variables to the containers of its namespace (service links). Those of a Service
called `guidsvc` or `guidsvc-...` look like settings. One, GUIDSVC_PORT=tcp://10.0.0.1:8888, has the name of a setting.
"""

import re
from collections.abc import Mapping

CLIENT_VARIABLES = frozenset({"GUIDSVC_URL", "GUIDSVC_KEY", "GUIDSVC_KEY_FILE", "GUIDSVC_API_KEY", "GUIDSVC_PROFILE"})
"""Variables that configure clients of the service, often in the same shell or `.env`."""
_SERVICE_LINK = re.compile(
    r"GUIDSVC_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_PORT = re.compile(r"GUIDSVC_(\w+_)?PORT")
_ADDRESS = re.compile(r"(tcp|udp|sctp)://[0-9a-fA-F.:\[\]]+:[0-9]+")


def is_foreign(variable: str, value: str | None) -> bool:
    """Return whether a variable, in upper case, is none of the service; its value decides if the name is a setting."""
    return variable in CLIENT_VARIABLES or is_service_link(variable, value)


def is_service_link(variable: str, value: str | None) -> bool:
    """Return whether Kubernetes, or a container link of Docker, sets a variable of this name and value."""
    if _SERVICE_LINK.fullmatch(variable):
        return True
    return _PORT.fullmatch(variable) is not None and _ADDRESS.fullmatch(value or "") is not None


def service_links(variables: Mapping[str, str]) -> list[str]:
    """Return the names of the variables that are service links, as they are written."""
    return [name for name, value in variables.items() if is_service_link(name.upper(), value)]
