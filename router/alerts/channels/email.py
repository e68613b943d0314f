"""E-mail: a mail to one or more addresses by a server of SMTP, with STARTTLS or TLS and a login.
https://www.rfc-editor.org/rfc/rfc5321 https://www.rfc-editor.org/rfc/rfc8314

Known traps: a message that comes again has the same `Message-ID`, and most mailboxes then show one. A code of 4xx passes, such as
greylisting; 5xx does not. `Auto-Submitted` keeps programs that answer mails quiet (RFC 3834).
"""

from __future__ import annotations

import re
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, parseaddr
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from router.alerts.contract import TAKEN, Item, Mail, Message, Outcome, Response
from router.alerts.kit import MOST_ANSWER, headline, lasted, line, rest, sample_lines, why_of

MOST_ITEMS = 100
KNOWS_REPEATS = True
RESOLVES_EACH = False
MOST_SUBJECT = 150
_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_ADDRESS = re.compile(r"[^@\s<>,;]+@[^@\s<>,;]+")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of e-mail."""

    host: Annotated[str, Meta(min_length=1, description="server of SMTP")]
    to: Annotated[list[str], Meta(min_length=1, max_length=50, description="addresses that get the mail")]
    sender: Annotated[str, Meta(description="address that it comes from, such as `Penstock <alerts@example.com>`")]
    port: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None, Meta(description="default: 587 with starttls, 465 with tls, 25 with none")
    ] = None
    security: Annotated[
        Literal["starttls", "tls", "none"],
        Meta(
            description="starttls: encrypted before the login. tls: from the first byte. none: only for a server on this machine"
        ),
    ] = "starttls"
    user: Annotated[str | None, Meta(description="user of the login; none: no login")] = None
    password: Annotated[str | None, Meta(extra={"secret": True}, description="password of the login")] = None
    verify: Annotated[bool, Meta(description="false: any certificate will do")] = True

    def __post_init__(self) -> None:
        for name, each in (("sender", self.sender), *(("to", each) for each in self.to)):
            if "\n" in each or "\r" in each or not _ADDRESS.fullmatch(parseaddr(each)[1]):
                raise ValueError(f"{name}: expected an address such as ops@example.com, got {each!r}")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password: give both or neither")
        if self.security == "none" and self.password is not None:
            raise ValueError("security: a password must not travel in the clear; write starttls or tls")


OPTIONS = Options


def requests(options: Options, message: Message) -> list[Mail]:
    """Returns one mail."""
    mail = EmailMessage(policy=SMTP)
    sender = parseaddr(options.sender)[1]
    mail["Subject"] = _one_line(headline(message))[:MOST_SUBJECT]
    mail["From"] = options.sender
    mail["To"] = ", ".join(options.to)
    mail["Date"] = formatdate(message.at)
    mail["Message-ID"] = f"<{message.id}@{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    parts = [headline(message), *(_of(item, message.at) for item in message.items), rest(message)]
    mail.set_content("\n\n".join(part for part in parts if part) + "\n", cte="quoted-printable")
    return [
        Mail(
            host=options.host,
            port=options.port or _PORTS[options.security],
            security=options.security,
            user=options.user,
            password=options.password,
            sender=sender,
            recipients=tuple(parseaddr(each)[1] for each in options.to),
            content=mail.as_bytes(),
            verify=options.verify,
        )
    ]


def answer(request: Mail, response: Response) -> Outcome:  # noqa: ARG001
    """Returns what became of the mail."""
    if 200 <= response.status < 300:
        return TAKEN
    said = " ".join(response.body.decode("utf-8", "replace").split())[:MOST_ANSWER]
    return Outcome(f"the mail server answers {response.status}: {said}", person=response.status >= 500)


def _one_line(text: str) -> str:
    """Returns a text that can be a header: a line break in a name must not begin another one."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _of(item: Item, at: float) -> str:
    mark = "FAILING" if item.status == "failing" else "ENDED"
    command = f"try: {item.next}" if item.next else ""
    parts = (f"{mark}  {line(item)}", why_of(item), *sample_lines(item), lasted(item, at), command)
    return "\n".join(each for each in parts if each)
