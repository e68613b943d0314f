"""Gives a mail to its server of SMTP, bounded in time. The library blocks, so this runs on a thread."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from router.alerts.contract import Mail, Response

TIMEOUT_SECONDS = 15.0
"""Of one step; a server that answers a byte at a time is ended by `MAIL_SECONDS`."""
MAIL_SECONDS = 60.0


class NoAnswer(Exception):
    """The other side did not say what became of a call. `unsure`: it may have taken it."""

    def __init__(self, why: str, *, person: bool = False, unsure: bool = False) -> None:
        super().__init__(why)
        self.person = person
        self.unsure = unsure


class Delivered(NamedTuple):
    """The answer of the server, and what it said of each recipient that it refused."""

    response: Response
    refused: dict[str, tuple[int, str]]


def deliver(mail: Mail, seconds: float = MAIL_SECONDS) -> Delivered:
    """Gives a mail to its server; blocks.

    Args:
        mail: the mail.
        seconds: most for all steps together.

    Raises:
        NoAnswer: the server did not say what became of it.
    """
    where = f"{mail.host}:{mail.port}"
    context = ssl.create_default_context()
    if not mail.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    step, ended = "", threading.Event()
    try:
        server = (
            smtplib.SMTP_SSL(timeout=TIMEOUT_SECONDS, context=context)
            if mail.security == "tls"
            else smtplib.SMTP(timeout=TIMEOUT_SECONDS)
        )
        # the library checks the name of the certificate against this
        server._host = mail.host  # type: ignore[attr-defined]
        with _ends_after(server, seconds, ended), contextlib.closing(server):
            code, greeting = server.connect(mail.host, mail.port)
            if code != 220:
                raise smtplib.SMTPConnectError(code, greeting)
            if mail.security == "starttls":
                server.starttls(context=context)
            if mail.user is not None and mail.password is not None:
                server.login(mail.user, mail.password)
            step = "the mail"
            refused = server.sendmail(mail.sender, list(mail.recipients), mail.content)
            return Delivered(Response(250), _refused(refused))
    except smtplib.SMTPResponseException as exc:
        if ended.is_set():
            raise NoAnswer(
                f"the mail server {where} did not take the mail within {seconds:g} s", unsure=step == "the mail"
            ) from exc
        # below 400: an answer that the step does not know, or -1 where the server closed the connection; the mail is not taken
        return Delivered(Response(exc.smtp_code if exc.smtp_code >= 400 else 421, _text(exc.smtp_error).encode()), {})
    except smtplib.SMTPRecipientsRefused as exc:
        # one that may be taken later decides: the others are refused again then
        code, text = min(exc.recipients.values(), key=lambda each: each[0])
        return Delivered(Response(code, _text(text).encode()), _refused(exc.recipients))
    except smtplib.SMTPNotSupportedError as exc:
        raise NoAnswer(f"the mail server {where} cannot do what is asked: {exc}", person=True) from exc
    except ssl.SSLCertVerificationError as exc:
        raise NoAnswer(f"the certificate of {where} is not good: {exc.verify_message}", person=True) from exc
    except TimeoutError as exc:
        raise NoAnswer(
            f"the mail server {where} does not answer within {TIMEOUT_SECONDS:g} s", unsure=step == "the mail"
        ) from exc
    except (smtplib.SMTPException, OSError, ValueError) as exc:
        if ended.is_set():
            raise NoAnswer(
                f"the mail server {where} did not take the mail within {seconds:g} s", unsure=step == "the mail"
            ) from exc
        said = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        raise NoAnswer(f"the mail server {where} cannot be reached: {said}", unsure=step == "the mail") from exc


@contextlib.contextmanager
def _ends_after(server: smtplib.SMTP, seconds: float, ended: threading.Event) -> Iterator[None]:
    """Closes the connection after a time: the library waits again for each line, so a slow server could hold the thread for ever."""
    over = threading.Event()

    def watch() -> None:
        wait = seconds
        while not over.wait(wait):
            ended.set()
            wait = 1.0  # there may be no connection yet
            with contextlib.suppress(OSError, AttributeError):
                server.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    threading.Thread(target=watch, name="alerts-mail-end", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _refused(recipients: Mapping[str, tuple[int, bytes]]) -> dict[str, tuple[int, str]]:
    return {name: (code, _text(said)) for name, (code, said) in recipients.items()}


def _text(said: bytes | str) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else said
