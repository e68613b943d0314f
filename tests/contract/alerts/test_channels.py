"""Every channel keeps its contract: its calls for each sort of message are as `golden/` has them, equal when made again, small, and an answer
means what the service says it means. `PENSTOCK_GOLDEN=write` writes the files again."""

from __future__ import annotations

import email.policy
import json
import os
from email import message_from_bytes
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.alerts.contract import Mail, Message, Post, Request, Response
from router.alerts.registry import CHANNELS, parse_alert
from tests.contract.alerts.conftest import FAILING, MESSAGES, OPTIONS, SECRET

GOLDEN = Path(__file__).parent / "golden"
MOST_BYTES = 28_000
"""The least that a service takes: a card of Teams."""
CASES = [(name, case) for name in OPTIONS for case in MESSAGES]


def shown(request: Request) -> dict[str, Any]:
    """Returns a call as a golden file has it."""
    if isinstance(request, Post):
        return {"url": request.url, "headers": dict(request.headers), "body": json.loads(request.body)}
    mail = message_from_bytes(request.content, policy=email.policy.default)
    text = mail.get_content()
    headers = {name: str(value) for name, value in mail.items()}
    return {
        **request._asdict(),
        "content": {"headers": headers, "text": text.splitlines()},
        "recipients": list(request.recipients),
    }


def made(name: str, message: Message) -> list[Request]:
    alert = parse_alert("oncall", {"type": name, **OPTIONS[name]})
    return alert.channel.requests(alert.options, message)


def test_every_channel_stands_in_this_suite_and_has_its_page() -> None:
    assert set(OPTIONS) == set(CHANNELS.names())
    pages = Path(__file__).parents[3] / "docs" / "alerts"
    assert {page.stem for page in pages.glob("*.md")} == set(OPTIONS)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_calls_of_a_message_are_as_they_were(name: str, case: str) -> None:
    file = GOLDEN / f"{name}.{case}.json"
    found = [shown(request) for request in made(name, MESSAGES[case])]
    if os.environ.get("PENSTOCK_GOLDEN") == "write":
        file.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_message_that_is_made_again_has_equal_calls(name: str, case: str) -> None:
    assert made(name, MESSAGES[case]) == made(name, MESSAGES[case])


@pytest.mark.parametrize("letter", ["w", "\u65e5", "&", '"'])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_full_message_of_long_texts_is_small_enough(name: str, letter: str) -> None:
    channel = CHANNELS.get(name)
    long = msgspec.structs.replace(
        FAILING, title=letter * 300, why=letter * 300, sample={f"s{number}": letter * 100 for number in range(5)}
    )
    message = Message(id="i", alert="oncall", at=1.0, items=[long] * channel.MOST_ITEMS, more={"failing": 9})
    requests = made(name, message)
    assert len(requests) <= channel.MOST_ITEMS + 1
    limit = MOST_BYTES if name in ("slack", "teams", "pagerduty") else 2_000_000
    assert all(len(each.body if isinstance(each, Post) else each.content) < limit for each in requests)
    if name == "slack":
        texts = [block["text"]["text"] for block in shown(requests[0])["body"]["blocks"]]
        assert sum(map(len, texts)) <= 9_500
        assert max(map(len, texts)) <= 3_000
        assert "more failing; all of them" in texts[-1]
    if name == "teams":
        assert "more failing; all of them" in json.dumps(shown(requests[0])["body"])


@pytest.mark.parametrize("name", OPTIONS)
def test_secrets_are_marked_and_are_in_no_message(name: str) -> None:
    alert = parse_alert("oncall", {"type": name, **OPTIONS[name]})
    assert SECRET not in alert.mask.text(f"it echoes {SECRET} and {OPTIONS[name].get('url', '')}")
    for request in made(name, MESSAGES["some"]):
        content = request.body if isinstance(request, Post) else request.content
        assert name == "pagerduty" or SECRET.encode() not in content


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "email"])
@pytest.mark.parametrize(
    ("status", "taken", "person"),
    [(200, True, False), (202, True, False), (429, False, False), (500, False, False), (503, False, False), (404, False, True), (403, False, True), (302, False, True)],
)  # fmt: skip
def test_an_answer_says_whether_the_message_was_taken_and_whether_a_person_must_act(
    name: str, status: int, taken: bool, person: bool
) -> None:
    (request, *_) = made(name, MESSAGES["one"])
    outcome = CHANNELS.get(name).answer(request, Response(status, b"no_service", {"retry-after": "7"}))
    assert (outcome.why == "", outcome.person) == (taken, person)
    assert taken or ("no_service" in outcome.why and str(status) in outcome.why)
    assert outcome.after_seconds == (7.0 if not taken and status != 302 else None)


@pytest.mark.parametrize(
    ("code", "taken", "person"), [(250, True, False), (421, False, False), (450, False, False), (535, False, True)]
)
def test_codes_of_mail_servers_pass_or_need_a_person(code: int, taken: bool, person: bool) -> None:
    (request,) = made("email", MESSAGES["one"])
    assert isinstance(request, Mail)
    outcome = CHANNELS.get("email").answer(request, Response(code, b"said"))
    assert (outcome.why == "", outcome.person) == (taken, person)


def test_no_name_of_a_client_makes_a_link_or_notifies_a_channel() -> None:
    slack, teams = (shown(made(name, MESSAGES["some"])[0])["body"] for name in ("slack", "teams"))
    assert "<!channel>" not in json.dumps(slack)
    texts = [block["text"] for block in slack["blocks"]]
    assert all(each["verbatim"] for each in texts), "else Slack makes links of addresses"
    (of_dead,) = [each["text"] for each in texts if "messageId" in each["text"]]
    assert (of_dead.count("*"), of_dead.count("`"), of_dead.count("~")) == (2, 2, 0), "only our own markup"
    (card,) = teams["attachments"]
    assert {each["type"] for each in card["content"]["body"]} == {"RichTextBlock"}, "Teams reads Markdown in a TextBlock"


@pytest.mark.parametrize("odd", ["\r\nBcc: evil@example.com", "\x00\x1b", "\u2028x", "\x85Bcc: evil@example.com"])
def test_no_name_begins_another_header_or_stops_an_alert(odd: str) -> None:
    item = msgspec.structs.replace(FAILING, title=f"connection a{odd}", why=f"w{odd}")
    for name in OPTIONS:
        message = Message(id="i", alert="oncall", at=1.0, items=[item])
        (request, *_) = made(name, message)
        if isinstance(request, Mail):
            mail = message_from_bytes(request.content, policy=email.policy.default)
            assert set(mail) == set(message_from_bytes(made(name, MESSAGES["one"])[0].content))  # type: ignore[union-attr]
            assert mail["Bcc"] is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("30", 30.0),
        ("99999999999999999999", 3600.0),
        ("\u00b2", None),
        ("\u0663", None),
        ("-5", None),
        ("soon", None),
        ("Fri, 15 Jan 2027 08:02:00 GMT", 120.0),
        ("Fri, 15 Jan 2027 07:02:00 GMT", 0.0),
        ("Fri, 15 Jan 9999 08:02:00 GMT", 3600.0),
    ],
)
def test_a_wait_that_a_service_asks_for_is_read_and_bounded_and_an_odd_one_is_none(header: str, seconds: float | None) -> None:
    (request, *_) = made("slack", MESSAGES["one"])
    headers = {"retry-after": header, "date": "Fri, 15 Jan 2027 08:00:00 GMT"}
    assert CHANNELS.get("slack").answer(request, Response(429, b"", headers)).after_seconds == seconds


def test_pagerduty_resolves_the_incident_that_it_triggered() -> None:
    triggered, _, resolved, left, others = (shown(each)["body"] for each in made("pagerduty", MESSAGES["some"]))
    assert (left["event_action"], others["event_action"]) == ("resolve", "resolve"), "no others fail"
    again = msgspec.structs.replace(MESSAGES["one"], items=[msgspec.structs.replace(FAILING, status="recovered", ended=9.0)])
    own, _ = (shown(each)["body"] for each in made("pagerduty", again))
    assert (triggered["event_action"], own["event_action"], resolved["event_action"]) == ("trigger", "resolve", "resolve")
    assert triggered["dedup_key"] == own["dedup_key"] != resolved["dedup_key"]


def test_pagerduty_has_one_incident_for_all_faults_of_a_storm_beyond_the_listed_ones() -> None:
    *_, others = (shown(each)["body"] for each in made("pagerduty", MESSAGES["storm"]))
    assert (others["event_action"], others["dedup_key"]) == ("trigger", "penstock/oncall/others")
    assert others["payload"]["summary"] == "penstock oncall: 470 more fail; all of them: penstock alerts list"
