"""Host and port -> a socket. It knows nothing of what is served there."""

from __future__ import annotations

import socket

from gateway.errors import SettingsError
from gateway.settings import AdminSettings, ServerSettings

BACKLOG = 2048  # connections that the kernel may hold until they are accepted


def bind(
    place: ServerSettings | AdminSettings, *, shared: bool = False, name: str = "server"
) -> socket.socket:
    """Take an address, without listening yet; `shared` with other processes. Raises SettingsError.

    `name` is the section of the settings, for the message.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # the latter: a host that IDNA cannot encode
        raise unusable(place, name, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise unusable(place, name, error) from error
    return listener


def listen(place: ServerSettings | AdminSettings, *, name: str) -> socket.socket:
    """Take an address alone and listen; who connects waits to be accepted. Raises SettingsError."""
    listener = bind(place, name=name)
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise unusable(place, name, error) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def unusable(
    place: ServerSettings | AdminSettings, name: str, error: OSError | UnicodeError
) -> SettingsError:
    """The error to raise when an address cannot be taken."""
    why = error.strerror if isinstance(error, OSError) else "no name of a host"
    flag = " with --port" if name == "server" else ""
    return SettingsError(
        f"{name}.host {place.host!r}, {name}.port {place.port}: {why}",
        mend=f"stop what listens there, or choose another{flag}; 0 takes a free one",
    )
