"""Free ports on the loopback interface, and waiting until somebody listens on them."""

from __future__ import annotations

import socket
import subprocess
import time


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def wait_until_listening(port: int, server: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """Return as soon as `server` listens; its end or its silence fails the test."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            raise AssertionError(f"{server.args!r} ended with exit code {server.returncode}")
        with socket.socket() as one:
            one.settimeout(1)
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"{server.args!r} does not listen on port {port}")
