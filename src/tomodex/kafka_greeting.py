"""What a broker of Kafka wants of who comes, asked by hand: why it does not let us in.

The library says of an expired certificate the same as of an unknown signer, and of a broker that
wants TLS only that it does not answer.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tomodex.doors import KafkaAccess

#: How long one broker may take to answer.
PATIENCE_S = 3.0

#: Brokers that are asked.
MOST_PLACES = 4

#: SaslHandshake, which brokers answer before they know who asks.
SASL_HANDSHAKE, HANDSHAKE_VERSION = 17, 1

#: The answer of a listener where nobody says who he is.
ILLEGAL_SASL_STATE = 34

#: More than any broker answers to it, bytes.
MOST_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Place:
    """Where a broker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class NotKafka(OSError):
    """Something else answers there, or hangs up."""


def places_of(servers: str) -> Sequence[Place]:
    """The brokers that a list of `host:port` names; those without a port are at 9092."""
    return [_place(one.strip()) for one in servers.split(",") if one.strip()]


def _place(server: str) -> Place:
    host, colon, port = server.rpartition(":")
    if not colon or not port.isdigit():
        return Place(server.strip("[]"), 9092)
    return Place(host.strip("[]"), int(port))


def why_refused(places: Sequence[Place], access: KafkaAccess) -> str:
    """Why one of these brokers lets nobody in who comes as we do.

    "": none can be reached, or nothing is wrong before the user and the password are looked at.
    """
    for place in places[:MOST_PLACES]:
        try:
            reason = _look(place, access)
        except OSError:  # not there, or busy: it is for others to say so
            continue
        if reason:
            return reason
    return ""


def _look(place: Place, access: KafkaAccess) -> str:
    with _reached(place) as plain:
        if access.protocol.endswith("SSL"):
            return _look_with_tls(place, access, plain)
        try:
            mechanisms = _mechanisms(plain, access.mechanism)
        except OSError:
            if not _speaks_tls(place):
                raise
            wanted = "SASL_SSL" if access.user else "SSL, or to SASL_SSL if it asks for a user"
            return f"{place} speaks TLS; set `protocol` to {wanted}"
    return _of_users(place, access, mechanisms)


def _look_with_tls(place: Place, access: KafkaAccess, plain: socket.socket) -> str:
    context = ssl.create_default_context(cafile=str(access.ca) if access.ca else None)
    if access.certificate:
        context.load_cert_chain(access.certificate, access.key)
    try:
        talk = context.wrap_socket(plain, server_hostname=place.host)
    except ssl.SSLCertVerificationError as wrong:
        why = wrong.verify_message.rstrip(".") + _hint(wrong, access)
        return f"the certificate that {place} shows is not good: {why}"
    except OSError as failed:
        if _is_alert(failed):  # before TLS 1.3 a broker sees ours within the handshake
            return _refusal(place, access, failed)
        if not _speaks_plainly(place, access.mechanism):
            raise
        wanted = "SASL_PLAINTEXT" if access.user else "PLAINTEXT"
        return f"{place} has no TLS; name a port that has, or set `protocol` to {wanted}"
    with talk:
        try:
            mechanisms = _mechanisms(talk, access.mechanism)
        except OSError as failed:
            if not _is_alert(failed):
                raise
            return _refusal(place, access, failed)
    return _of_users(place, access, mechanisms)


def _hint(wrong: ssl.SSLCertVerificationError, access: KafkaAccess) -> str:
    """What helps against what OpenSSL calls X509_V_ERR_*: 62 and 64 are other names, 10 is time."""
    if wrong.verify_code in (62, 64):
        return "; name the broker as its certificate does"
    if wrong.verify_code in (9, 10):
        return ""
    return f"; {access.ca} does not hold who signed it" if access.ca else "; see `ca`"


def _is_alert(failed: OSError) -> bool:
    """Whether the broker says what it has against us."""
    return isinstance(failed, ssl.SSLError) and "ALERT" in (failed.reason or "")


def _refusal(place: Place, access: KafkaAccess, failed: OSError) -> str:
    """As OpenSSL names it, SSLV3_ALERT_BAD_CERTIFICATE, whatever version is spoken."""
    ours = "does not take our certificate" if access.certificate else "wants a certificate of ours"
    alert = str(getattr(failed, "reason", "")).partition("ALERT_")[2].lower().replace("_", " ")
    return f"{place} {ours}; see `certificate` and `key` (it says: {alert})"


def _of_users(place: Place, access: KafkaAccess, mechanisms: Sequence[str] | None) -> str:
    """What is wrong with whether and how we say who we are; None: nobody is asked there."""
    asks = access.protocol.startswith("SASL")
    bare = access.protocol.removeprefix("SASL_")
    if mechanisms is None:
        return f"{place} asks for no user; set `protocol` to {bare}" if asks else ""
    if not asks:
        return f"{place} asks for a user; set `protocol` to SASL_{bare}, `user` and `password`"
    if access.mechanism not in mechanisms:
        known = ", ".join(mechanisms)
        return f"{place} does not know the `mechanism` {access.mechanism}; it knows {known}"
    return ""


def _reached(place: Place) -> socket.socket:
    return socket.create_connection((place.host, place.port), PATIENCE_S)


def _speaks_tls(place: Place) -> bool:
    context = ssl.create_default_context()
    # Not to be trusted with anything: it is asked what it is, and told nothing.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with _reached(place) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False


def _speaks_plainly(place: Place, mechanism: str) -> bool:
    try:
        with _reached(place) as plain:
            _mechanisms(plain, mechanism)
    except OSError:
        return False
    return True


# Kafka's protocol, as far as it is needed here: https://kafka.apache.org/protocol


def _mechanisms(talk: socket.socket, mechanism: str) -> Sequence[str] | None:
    """The SASL mechanisms that the broker knows; None: nobody says there who he is.

    Raises:
        OSError: it hangs up, or is no broker.
    """
    head = struct.pack(">hhih", SASL_HANDSHAKE, HANDSHAKE_VERSION, 1, -1)
    name = mechanism.encode()
    request = head + struct.pack(">h", len(name)) + name
    talk.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _exactly(talk, 4))
    if not 0 < size <= MOST_BYTES:
        raise NotKafka("no answer of Kafka")
    return _read_mechanisms(_exactly(talk, size))


def _read_mechanisms(answer: bytes) -> Sequence[str] | None:
    """Raises NotKafka: it is no answer to SaslHandshake."""
    try:
        _, error, count = struct.unpack_from(">ihi", answer)
        if error == ILLEGAL_SASL_STATE:
            return None
        found, at = [], 10
        for _ in range(count):
            (length,) = struct.unpack_from(">H", answer, at)
            found.append(answer[at + 2 : at + 2 + length].decode("ascii"))
            at += 2 + length
    except (struct.error, UnicodeDecodeError) as wrong:
        raise NotKafka("no answer of Kafka") from wrong
    if not all(name.isprintable() for name in found):
        raise NotKafka("no answer of Kafka")
    return found


def _exactly(talk: socket.socket, size: int) -> bytes:
    """So many bytes.

    Raises:
        NotKafka: there are fewer.
    """
    found = b""
    while len(found) < size:
        some = talk.recv(size - len(found))
        if not some:
            raise NotKafka("hangs up")
        found += some
    return found
