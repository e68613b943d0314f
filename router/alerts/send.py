"""Sends the calls of a message, over HTTP or SMTP, bounded in time and size.

The addresses are the ones that the author of the project wrote: redirects are not followed, and no part of an answer chooses another
address. Cookies are not kept. A text that the other side wrote is masked before it is kept or shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator

import aiohttp

from router.alerts.contract import TAKEN, Mail, Message, Outcome, Post, Request, Response
from router.alerts.mail import NoAnswer, deliver
from router.alerts.registry import Alert, with_secrets
from shared.errors import PenstockError, Transient
from shared.threads import ThreadGate

TIMEOUT_SECONDS = 15.0
CONNECT_SECONDS = 10.0
ANSWER_BYTES = 16 * 1024
MAILS_AT_ONCE = 2
MESSAGE_SECONDS = 60.0
"""After this time no further call of a message begins; the next attempt goes on with it."""
MOST_MESSAGES = 100
"""Messages of which it is remembered which calls were taken."""

log = logging.getLogger(__name__)


class Sender:
    """Sends messages of all alerts. It remembers which calls of a message were taken, and does not repeat these."""

    def __init__(self, session: aiohttp.ClientSession, gate: ThreadGate) -> None:
        self._session = session
        self._gate = gate
        self._taken: OrderedDict[str, set[str]] = OrderedDict()

    async def send(self, alert: Alert, message: Message) -> Outcome:
        """Sends a message; returns what became of it: of the first call that was not taken, if there is one."""
        try:
            alert = await self._gate.run(with_secrets, alert)
        except PenstockError as exc:
            return Outcome(str(exc), person=not isinstance(exc, Transient))
        taken = self._taken.setdefault(message.id, set())
        while len(self._taken) > MOST_MESSAGES:
            self._taken.popitem(last=False)
        begun = asyncio.get_running_loop().time()
        for number, request in enumerate(alert.channel.requests(alert.options, message)):
            if str(number) in taken:
                continue
            if asyncio.get_running_loop().time() - begun > MESSAGE_SECONDS:
                return Outcome(f"its calls take longer than {MESSAGE_SECONDS:g} s; the others follow")
            try:
                outcome = await self._call(alert, request, taken)
            except NoAnswer as exc:
                return Outcome(alert.mask.text(str(exc)), person=exc.person, unsure=exc.unsure)
            if outcome.why:
                return outcome._replace(why=alert.mask.text(outcome.why))
            taken.add(str(number))
        self._taken.pop(message.id, None)  # others may have pushed it out meanwhile
        return TAKEN

    async def _call(self, alert: Alert, request: Request, taken: set[str]) -> Outcome:
        if isinstance(request, Post):
            return alert.channel.answer(request, await self._post(request))
        return await self._mail(alert, request, taken)

    async def _mail(self, alert: Alert, mail: Mail, taken: set[str]) -> Outcome:
        """Sends a mail to the recipients that did not get it yet. Ones that are refused for good do not hold up the others."""
        left = mail._replace(recipients=tuple(each for each in mail.recipients if each not in taken))
        done = await self._gate.run(deliver, left)
        outcome = alert.channel.answer(mail, done.response)
        if not outcome.why:
            taken.update(each for each in left.recipients if each not in done.refused)
        if not done.refused or not any(each in taken for each in mail.recipients):
            return outcome
        outcome = TAKEN
        for name, (code, said) in done.refused.items():
            refused = alert.channel.answer(mail, Response(code, said.encode()))
            why = f"{refused.why} (for {name})"
            log.warning("a recipient of an alert was refused", extra={"alert": alert.name, "error": alert.mask.text(why)})
            if not refused.person:
                outcome = refused._replace(why=why)
        return outcome

    async def _post(self, post: Post) -> Response:
        try:
            async with self._session.post(post.url, data=post.body, headers=post.headers, allow_redirects=False) as answer:
                body = bytearray()
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # its status says what became of it
                    while len(body) < ANSWER_BYTES and (piece := await answer.content.read(ANSWER_BYTES)):
                        body += piece
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return Response(answer.status, bytes(body[:ANSWER_BYTES]), headers)
        except aiohttp.ConnectionTimeoutError as exc:
            raise NoAnswer(f"no connection within {CONNECT_SECONDS:g} s") from exc
        except TimeoutError as exc:
            raise NoAnswer(f"no answer within {TIMEOUT_SECONDS:g} s", unsure=True) from exc
        except aiohttp.ClientConnectorCertificateError as exc:
            raise NoAnswer(f"the certificate of {exc.host}:{exc.port} is not good: {exc.certificate_error}", person=True) from exc
        except aiohttp.ClientConnectorError as exc:
            raise NoAnswer(f"cannot connect to {exc.host}:{exc.port}: {exc.os_error.strerror or exc.os_error}") from exc
        except aiohttp.InvalidURL as exc:
            raise NoAnswer("its url is no address", person=True) from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise NoAnswer(f"the connection ended before an answer came: {type(exc).__name__}", unsure=True) from exc


@contextlib.asynccontextmanager
async def open_sender() -> AsyncIterator[Sender]:
    """Opens a sender."""
    session = aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "Penstock", "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS, sock_connect=CONNECT_SECONDS),
    )
    gate = ThreadGate(MAILS_AT_ONCE, "alerts")
    try:
        yield Sender(session, gate)
    finally:
        await session.close()
        gate.close()
        await asyncio.sleep(0)  # transports close in the next turn of the loop
