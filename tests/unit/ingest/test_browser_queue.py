"""The queue of the script of browsers, run by Deno with stand-ins for the page: full storage, clocks, odd answers, refusal."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from functions_runtime.sandbox.guest import find_deno
from ingest.browser import assets
from shared.devices.registry import script_of

PAGE = """
const held = new Map()
globalThis.room = Infinity
const handler = {
  ownKeys: () => [...held.keys()],
  getOwnPropertyDescriptor: (_, name) => held.has(name) ? {value: held.get(name), enumerable: true, configurable: true} : undefined,
}
const storage = new Proxy({
  getItem: (name) => held.get(name) ?? null,
  removeItem: (name) => held.delete(name),
  setItem(name, text) {
    if ([...held].reduce((sum, [key, value]) => sum + (key === name ? 0 : value.length), text.length) > room) throw new Error("full")
    held.set(name, text)
  },
}, handler)
Object.defineProperty(globalThis, "localStorage", {value: storage})
globalThis.on = {}
globalThis.addEventListener = (type, listener) => (on[type] = listener)
globalThis.document = {addEventListener, cookie: "", location: {}}
globalThis.location = {hostname: "localhost", protocol: "http:", href: "http://localhost/"}
Object.defineProperty(globalThis, "navigator", {value: {}, configurable: true})
const waits = []
globalThis.setTimeout = (_, milliseconds) => (waits.push(milliseconds), 1)
globalThis.clearTimeout = globalThis.setInterval = () => 0
const record = (at, ...events) => JSON.stringify({at, left: false, events})
const {createQueue, heard} = await import(FOLDER + "queue.mjs")
const {createAnalytics} = await import(FOLDER + "analytics.mjs")
const sent = []
const send = (answer) => async (texts, bytes, leaving) => (sent.push([texts.length, bytes, leaving]), answer)
const queueOf = (answer = {status: 0}, room = 1) =>
  createQueue({name: "q.shop", transport: {room: () => room, send: send(answer)}, delay: 0, log: () => 0, warn: () => 0})
const settled = async () => { for (let turn = 0; turn < 100; turn++) await 0 }
"""


def told(code: str) -> Any:
    """Returns what the code prints, as JSON."""
    page = (PAGE + code).replace("FOLDER", json.dumps((assets.FOLDER / "script").as_uri() + "/"))
    command = [find_deno(), "run", "--quiet", "--no-remote", "--no-config", "--allow-read", "--ext=js", "-"]
    done = subprocess.run(command, input=page, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_events_that_a_page_takes_over_are_kept_again_when_there_is_no_room_for_both() -> None:
    code = """
    held.set("q.shop.old", record(0, {event: "x".repeat(500)}))
    room = 900
    queueOf()
    console.log(JSON.stringify([held.has("q.shop.old"), [...held.values()].join().includes("xxx")]))"""
    assert told(code) == [False, True]


def test_a_page_takes_over_what_a_clock_ahead_wrote_and_never_what_another_key_wrote() -> None:
    code = """
    held.set("q.shop.ahead", record(Date.now() + 1e10, {event: "mine"}))
    held.set("q.shop.eu.old", record(0, {event: "theirs"}))
    held.set("q.shop.open", record(Date.now(), {event: "open"}))
    const queue = queueOf()
    console.log(JSON.stringify([queue.size(), held.has("q.shop.eu.old"), held.has("q.shop.open")]))"""
    assert told(code) == [1, True, True]


@pytest.mark.parametrize("asked", ["1e12", "Infinity", "-5", "NaN"])
def test_no_answer_makes_the_page_ask_again_at_once_for_ever(asked: str) -> None:
    code = f"""
    const queue = queueOf({{status: 503, retryAfter: {asked}}})
    queue.push({{event: "a"}})
    queue.wake()
    await settled()
    console.log(JSON.stringify(waits.at(-1)))"""
    assert 500 < told(code) < 2**31


def test_what_the_edge_did_not_answer_is_kept_whatever_its_status() -> None:
    code = """
    const json = {"Content-Type": "application/json; charset=utf-8"}
    const kept = []
    for (const [body, init] of [
      ['{"success":true}', {headers: json}], ['{"success":false,"rejects":[]}', {headers: json}], ['{"code":"a","message":"b"}', {status: 400, headers: json}],
      ["<html>", {headers: {"Content-Type": "text/html"}}], ['{"ok":true}', {headers: json}], ["null", {headers: json}],
      ['{"success":true}', {status: 202, headers: json}], [null, {status: 204}], ["<html>", {status: 400, headers: {"Content-Type": "text/html"}}],
    ]) {
      held.clear()
      const queue = queueOf(await heard(new Response(body, init)))
      queue.push({event: "a"})
      queue.wake()
      await settled()
      kept.push(queue.size())
    }
    console.log(JSON.stringify(kept))"""
    assert told(code) == [0, 0, 0, *[1] * 6]


def test_a_page_that_goes_sends_no_more_than_browsers_let_it_and_keeps_all() -> None:
    code = """
    const queue = queueOf(new Promise(() => 0), 0)
    for (let n = 0; n < 900; n++) queue.push({n, pad: "x".repeat(90)})
    on.pagehide()
    const {events, left} = JSON.parse([...held.values()][0])
    console.log(JSON.stringify([sent, events.length, left]))"""
    [[count, size, leaving]], kept, marked = told(code)
    assert (leaving, kept, marked) == (True, 900, True)
    assert 400 < count < 900
    assert 50_000 < size < 65_536 - 1000


def test_a_page_that_a_busy_server_asked_to_wait_sends_nothing_as_it_goes_and_tells_the_next() -> None:
    code = """
    const queue = queueOf({status: 503, retryAfter: 30})
    queue.push({n: 1})
    queue.wake()
    await settled()
    on.pagehide()
    on.online()
    const next = queueOf({status: 200, ours: true})
    next.wake()
    await settled()
    const blocked = [sent.length, next.size()]
    room = 0
    held.clear()
    on = {}
    const poor = queueOf({status: 503, retryAfter: 30})
    poor.push({n: 2})
    poor.wake()
    await settled()
    on.pagehide()
    console.log(JSON.stringify([...blocked, sent.length - 1]))"""
    # without storage the page's last chance is taken
    assert told(code) == [1, 1, 2]


def test_a_page_that_is_hidden_again_and_again_asks_no_more_often() -> None:
    code = """
    const queue = queueOf({status: 0})
    queue.push({n: 1})
    queue.wake()
    await settled()
    document.visibilityState = "hidden"
    for (let turn = 0; turn < 5; turn++) { on.visibilitychange(); await settled() }
    const hidden = sent.length
    on.pagehide()
    console.log(JSON.stringify([hidden, sent.length]))"""
    assert told(code) == [1, 2]


def test_thousands_of_events_at_once_cost_few_writes() -> None:
    code = """
    let writes = 0
    const {setItem} = localStorage
    handler.get = (target, name) => (name === "setItem" ? (...words) => (writes++, target.setItem(...words)) : target[name])
    const queue = queueOf(new Promise(() => 0), 0)
    for (let n = 0; n < 10000; n++) queue.push({n})
    console.log(JSON.stringify([queue.size(), writes]))"""
    size, writes = told(code)
    assert size == 1000
    assert writes < 200


def test_who_refuses_leaves_nothing_of_an_earlier_visit() -> None:
    code = """
    globalThis.fetch = () => new Promise(() => 0)
    held.set("penstock_queue.shop.old", record(0, {event: "a"}))
    held.set("penstock_queue.shop.eu.old", record(0, {event: "another site's"}))
    for (const name of ["penstock_cookie", "penstock_id", "penstock_person"]) held.set(name, "an-id")
    createAnalytics({host: "http://localhost", key: "shop", consent: false})
    console.log(JSON.stringify([...held.keys()]))"""
    assert told(code) == ["penstock_queue.shop.eu.old"]


def test_events_that_wait_for_a_vendors_script_go_nowhere_once_the_visitor_refuses() -> None:
    code = """
    const {startDevices} = await import(FOLDER + "devices.mjs")
    globalThis.told = []
    globalThis.loaded = new Promise((done) => (globalThis.done = done))
    const src = "data:text/javascript,export const load = async () => (await loaded, (event) => told.push(event.event))"
    const given = startDevices({devices: [{src, consent: [], names: []}], base: "http://x/", warn: console.error, log: () => 0})
    given({event: "granted"})
    given(undefined, false)
    given({event: "granted again"})
    done()
    while (!told.length) await new Promise((done) => queueMicrotask(() => import("data:text/javascript,").then(done)))
    await settled()
    console.log(JSON.stringify(told))"""
    assert told(code) == ["granted again"]


def test_a_value_in_a_script_of_a_tag_ends_no_text_and_no_comment() -> None:
    text = script_of("tag")
    code = (
        text.replace("export function", "function")
        + r"""
    const bad = "'+(globalThis.hacked=1)+'`${globalThis.hacked=1}*/globalThis.hacked=1//\u2028globalThis.hacked=1</script>"
    const evaluated = (template) => { try { return (0, eval)(filled(template, {a: bad}, json)) } catch { return null } }
    const same = evaluated("({{ event.a }})") === bad
    for (const template of ["'{{ event.a }}'", "`{{ event.a }}`", "1 /* {{ event.a }} */", "1 // {{ event.a }}"]) evaluated(template)
    console.log(JSON.stringify([same, globalThis.hacked ?? null]))"""
    )
    assert told(code) == [True, None]


@pytest.mark.parametrize(("before", "words"), [("{mine: 1}", 1), ("[]", 0), ("undefined", 0)])
def test_a_variable_that_belongs_to_something_else_is_taken_with_a_word(before: str, words: int) -> None:
    code = f"""
    const said = []
    console.warn = (text) => said.push(text)
    globalThis.HTMLScriptElement = class {{ src = "http://edge/p.js"; dataset = {{key: "shop", page: "off", consent: "wait"}} }}
    document.currentScript = new HTMLScriptElement()
    globalThis.window = globalThis
    globalThis.analytics = {before}
    await import(FOLDER + "start.mjs")
    console.log(JSON.stringify([said.filter((text) => text.includes("window.analytics was something else")).length, analytics.initialized]))
    """
    assert told(code) == [words, True]


def test_an_event_with_what_json_leaves_out_reaches_devices_too_and_takes_no_place_for_ever() -> None:
    code = """
    const {startDevices} = await import(FOLDER + "devices.mjs")
    globalThis.told = []
    const src = "data:text/javascript,export const load = () => (event) => told.push(event)"
    const given = startDevices({devices: [{src, consent: [], names: []}], base: "http://x/", warn: console.error, log: () => 0})
    for (let n = 0; n < 1001; n++) given({n, context: {call: () => 0}})
    while (told.length < 1000) await new Promise((done) => queueMicrotask(() => import("data:text/javascript,").then(done)))
    given({n: "last"})
    while (told.length < 1001) await new Promise((done) => queueMicrotask(() => import("data:text/javascript,").then(done)))
    console.log(JSON.stringify([told[0], told.at(-1)]))"""
    # the 1001st waited behind a thousand
    quiet = code.replace("warn: console.error", "warn: () => 0")
    assert told(quiet) == [{"n": 0, "context": {}}, {"n": "last"}]


def test_of_events_that_waited_for_consent_one_that_cannot_be_written_leaves_out_itself_alone() -> None:
    code = """
    globalThis.fetch = () => new Promise(() => 0)
    Object.assign(globalThis, {screen: {}, innerWidth: 1, innerHeight: 1, devicePixelRatio: 1})
    globalThis.window = globalThis
    console.warn = () => 0
    Object.assign(document, {querySelector: () => null, referrer: "", title: ""})
    Object.assign(location, {pathname: "/", search: ""})
    const analytics = createAnalytics({host: "http://localhost", key: "shop", consent: "wait"})
    analytics.addSourceMiddleware(({payload, next}) => next(payload.obj.event === "bad" ? {...payload.obj, big: 1n} : payload.obj))
    for (const name of ["first", "bad", "last"]) analytics.track(name)
    const before = analytics.waiting()
    analytics.consent(true)
    console.log(JSON.stringify([before, analytics.waiting()]))"""
    assert told(code) == [3, 2]
