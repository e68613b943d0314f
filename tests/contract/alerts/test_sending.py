"""Messages go out over real sockets: HTTP without redirects, SMTP with STARTTLS, TLS and a login; what fails is said without secrets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from router.alerts.contract import Mail, Outcome
from router.alerts.mail import NoAnswer, deliver
from router.alerts.registry import CHANNELS, parse_alert
from router.alerts.send import Sender, open_sender
from shared.tasks import timeout
from tests.contract.alerts.conftest import MESSAGES, SECRET
from tests.support.certificate import make_certificate
from tests.support.mail import PASSWORD, USER, mail_server
from tests.support.ports import free_port
from tests.support.receiver import Behaviour, Receiver


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    async with open_sender() as opened:
        yield opened


async def send(sender: Sender, /, case: str = "some", **document: Any) -> Outcome:
    return await sender.send(parse_alert("oncall", document), MESSAGES[case])


async def test_a_webhook_gets_one_signed_call_with_the_id_of_the_message(sender: Sender) -> None:
    async with Receiver() as receiver:
        taken = await send(sender, type="webhook", url=receiver.url, secret=SECRET, headers={"X-Team": "data"})
    assert taken.why == ""
    (request,) = receiver.requests
    assert (request.key, request.headers["x-team"]) == ("id-some", "data")
    assert (
        request.headers["x-penstock-signature"] == "sha256=" + hmac.new(SECRET.encode(), request.body, hashlib.sha256).hexdigest()
    )


async def test_pagerduty_gets_a_call_for_each_item_and_the_first_that_fails_is_told(sender: Sender) -> None:
    async with Receiver() as receiver:
        endpoint = receiver.url.removesuffix("/in")
        assert (await send(sender, type="pagerduty", routing_key=SECRET, endpoint=endpoint)).why == ""
        assert [request.path for request in receiver.requests] == ["/v2/enqueue"] * 5
        receiver.behave = lambda _: Behaviour(status=400, body=f"invalid key {SECRET}".encode())
        failed = await send(sender, type="pagerduty", routing_key=SECRET, endpoint=endpoint)
    assert failed.person
    assert "400" in failed.why
    assert SECRET not in failed.why


async def test_a_redirect_is_not_followed(sender: Sender) -> None:
    async with Receiver() as target, Receiver() as receiver:
        receiver.behave = lambda _: Behaviour(status=307, headers={"Location": target.url})
        failed = await send(sender, type="slack", url=receiver.url)
        assert "redirects are not followed" in failed.why
        assert target.requests == []


@pytest.mark.parametrize("what", ["cut", "huge"])
async def test_odd_answers_are_bounded_and_said(sender: Sender, what: str) -> None:
    async with Receiver(lambda _: Behaviour(status=500, what=what)) as receiver:
        failed = await send(sender, type="teams", url=receiver.url)
    assert failed.why
    assert len(failed.why) < 500


async def test_a_service_that_takes_a_call_and_does_not_answer_may_have_it_and_one_that_cannot_be_reached_has_not(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.alerts.send.TIMEOUT_SECONDS", 0.5)
    async with open_sender() as impatient, Receiver(lambda _: Behaviour(what="hang")) as receiver:
        failed = await send(impatient, type="slack", url=receiver.url)
        assert (bool(failed.why), failed.unsure) == (True, True)
        for what in ("cut", "lose"):
            behaviour = Behaviour(what=what)
            receiver.behave = lambda _, behaviour=behaviour: behaviour  # type: ignore[misc]
            failed = await send(sender, type="slack", url=receiver.url)
            assert (bool(failed.why), failed.unsure) == (True, True), what
        away = await send(sender, type="slack", url=f"http://127.0.0.1:{free_port()}/")
        assert (bool(away.why), away.unsure) == (True, False)


async def test_calls_of_a_message_that_were_taken_are_not_repeated(sender: Sender) -> None:
    async with Receiver() as receiver:
        endpoint = receiver.url.removesuffix("/in")
        receiver.behave = lambda _: Behaviour(status=500 if len(receiver.requests) == 3 else 202)
        assert "500" in (await send(sender, type="pagerduty", routing_key=SECRET, endpoint=endpoint)).why
        assert (await send(sender, type="pagerduty", routing_key=SECRET, endpoint=endpoint)).why == ""
        keys = [json.loads(request.body)["dedup_key"] for request in receiver.requests]
    assert len(keys) == 6
    assert keys[2] == keys[3]
    assert len(set(keys)) == 5


async def test_an_address_where_nobody_listens_is_said_without_the_secret_in_its_path(sender: Sender) -> None:
    port = free_port()
    failed = await send(sender, type="slack", url=f"http://127.0.0.1:{port}/{SECRET}")
    assert failed.why.startswith(f"cannot connect to 127.0.0.1:{port}")
    assert SECRET not in failed.why
    assert not failed.person


def mail_to(port: int, **more: Any) -> dict[str, Any]:
    return {
        "type": "email", "host": "127.0.0.1", "port": port, "to": ["ops@example.com", "two@example.com"],
        "sender": "Penstock <alerts@example.com>", "user": USER, "password": PASSWORD, "verify": False, **more,
    }  # fmt: skip


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_mail_goes_out_encrypted_after_a_login(sender: Sender, security: str, tmp_path: Path) -> None:
    async with mail_server(make_certificate(tmp_path), security=security) as server:
        assert await send(sender, **mail_to(server.port, security=security)) == Outcome()
        assert (server.encrypted, server.logins) == ([True], [True])
        (mail,) = server.mails
        assert mail["Subject"] == "penstock oncall: 2 failing, 1 recovered, 1 no longer told"
        assert mail["To"] == "ops@example.com, two@example.com"
        assert mail["Message-ID"] == "<id-some@example.com>"
        text = mail.get_content()
        assert "FAILING  connection shop-wh: failing" in text
        assert "messageId: m1" in text
        await send(sender, **mail_to(server.port, security=security))
        assert server.mails[1]["Message-ID"] == mail["Message-ID"], "a repeat is known as one"


async def test_a_certificate_that_nobody_vouches_for_is_refused_before_the_password_is_sent(
    sender: Sender, tmp_path: Path
) -> None:
    async with mail_server(make_certificate(tmp_path)) as server:
        failed = await send(sender, **mail_to(server.port, verify=True))
        assert "certificate of 127.0.0.1" in failed.why
        assert failed.person
        assert server.logins == []


async def test_a_wrong_password_needs_a_person_and_greylisting_does_not(sender: Sender, tmp_path: Path) -> None:
    async with mail_server(make_certificate(tmp_path)) as server:
        wrong = await send(sender, **mail_to(server.port, password="wrong-password"))
        assert (wrong.person, "535" in wrong.why, "wrong-password" in wrong.why) == (True, True, False)
        server.refuse = "450 greylisted, try later"
        later = await send(sender, **mail_to(server.port))
        assert (later.person, "450: greylisted" in later.why) == (False, True)
        assert server.mails == []


async def test_a_server_without_starttls_gets_no_password(sender: Sender, tmp_path: Path) -> None:
    async with mail_server(make_certificate(tmp_path), security="none") as server:
        failed = await send(sender, **mail_to(server.port))
        assert "cannot do what is asked" in failed.why
        assert failed.person
        assert server.logins == []


async def test_a_mail_server_that_is_away_is_said(sender: Sender) -> None:
    port = free_port()
    failed = await send(sender, **mail_to(port))
    assert failed.why.startswith(f"the mail server 127.0.0.1:{port} cannot be reached")
    assert not failed.person


async def test_a_recipient_that_is_refused_holds_up_no_other_and_one_to_come_later_gets_it_alone(
    sender: Sender, tmp_path: Path
) -> None:
    async with mail_server(make_certificate(tmp_path)) as server:
        server.refuse_some = {"two@example.com": "451 greylisted"}
        later = await send(sender, **mail_to(server.port))
        assert (later.person, "451: greylisted" in later.why, "two@example.com" in later.why) == (False, True, True)
        server.refuse_some = {}
        assert (await send(sender, **mail_to(server.port))).why == ""
        assert server.taken_for == [["ops@example.com"], ["two@example.com"]]
        server.refuse_some = {"two@example.com": "550 no such user"}
        assert (await send(sender, "one", **mail_to(server.port))).why == ""
        assert server.taken_for[2:] == [["ops@example.com"]]
        server.refuse = "550 no such user"
        assert (await send(sender, "storm", **mail_to(server.port))).person


@pytest.mark.parametrize("dripped", [b"220-wait\r\n", b"2"])
async def test_a_mail_server_that_answers_a_piece_at_a_time_does_not_hold_a_thread_for_ever(dripped: bytes) -> None:
    gone = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while not reader.at_eof():
                writer.write(dripped)
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with timeout(0.05):
                        await reader.read()
        writer.close()
        gone.set()

    listening = await asyncio.start_server(drip, "127.0.0.1", 0)
    mail = CHANNELS.get("email").requests(
        parse_alert("oncall", mail_to(listening.sockets[0].getsockname()[1])).options, MESSAGES["one"]
    )[0]
    assert isinstance(mail, Mail)
    async with listening:
        with pytest.raises(NoAnswer, match="did not take the mail within"):
            await asyncio.to_thread(deliver, mail, 0.5)
        async with timeout(60):
            await gone.wait()
