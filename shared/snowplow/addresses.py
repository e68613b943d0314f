"""What the addresses of a page and of its referrer say: their parts, the campaign, where the visitor came from. Pure.

Lists of parameters, search engines and networks follow what Snowplow's documentation calls the defaults.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from shared.snowplow.values import moment

REMEMBERED = 4096
LONGEST = 8192
"""Longer addresses are not taken apart."""
_MOST_PARAMETERS = 200
_PARTS = ("scheme", "host", "port", "path", "query", "fragment")
_MARKETING = {
    "utm_medium": "mkt_medium", "utm_source": "mkt_source", "utm_term": "mkt_term", "utm_content": "mkt_content",
    "utm_campaign": "mkt_campaign",
}  # fmt: skip
_CLICKS = {"gclid": "Google", "msclkid": "Microsoft", "dclid": "DoubleClick"}
_SOURCES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "email": (("mail.google.com", "Gmail", ""), ("outlook.live.com", "Outlook.com", ""), ("mail.yahoo.com", "Yahoo! Mail", "")),
    "chatbot": (
        ("chatgpt.com", "ChatGPT", ""), ("chat.openai.com", "ChatGPT", ""), ("perplexity.ai", "Perplexity", ""),
        ("claude.ai", "Claude", ""), ("gemini.google.com", "Gemini", ""), ("copilot.microsoft.com", "Copilot", ""),
    ),
    "search": (
        ("google.", "Google", "q"), ("bing.com", "Bing", "q"), ("search.yahoo.com", "Yahoo!", "p"), ("duckduckgo.com", "DuckDuckGo", "q"),
        ("baidu.com", "Baidu", "wd"), ("yandex.", "Yandex", "text"), ("ecosia.org", "Ecosia", "q"), ("qwant.com", "Qwant", "q"),
        ("search.brave.com", "Brave", "q"), ("startpage.com", "Startpage", "query"), ("naver.com", "Naver", "query"),
    ),
    "social": (
        ("facebook.com", "Facebook", ""), ("instagram.com", "Instagram", ""), ("t.co", "Twitter", ""), ("twitter.com", "Twitter", ""),
        ("x.com", "Twitter", ""), ("linkedin.com", "LinkedIn", ""), ("lnkd.in", "LinkedIn", ""), ("reddit.com", "Reddit", ""),
        ("youtube.com", "Youtube", ""), ("pinterest.", "Pinterest", ""), ("tiktok.com", "TikTok", ""), ("threads.net", "Threads", ""),
        ("bsky.app", "Bluesky", ""), ("news.ycombinator.com", "Hacker News", ""),
    ),
}  # fmt: skip


@lru_cache(REMEMBERED)
def of_page(url: str) -> dict[str, Any]:
    """Returns the columns that the address of a page fills."""
    found = _parts(url, "page")
    if not found.get("page_urlquery"):
        return found
    query = _query(found["page_urlquery"])
    found |= {column: query[name] for name, column in _MARKETING.items() if query.get(name)}
    for name, network in _CLICKS.items():
        if query.get(name):
            found |= {"mkt_clickid": query[name], "mkt_network": network}
            break
    crossed = query.get("_sp", "").split(".")
    if crossed[0]:
        found["refr_domain_userid"] = crossed[0]
        sent = moment(crossed[1]) if len(crossed) > 1 else None
        if sent is not None:
            found["refr_dvce_tstamp"] = sent
    return found


@lru_cache(REMEMBERED)
def of_referrer(url: str, page_host: str | None) -> dict[str, Any]:
    """Returns the columns that the address of a referrer fills.

    Args:
        url: the address.
        page_host: the host of the page, whose own pages are `internal`.
    """
    found = _parts(url, "refr")
    host = found.get("refr_urlhost")
    if not host:
        return found
    if host == page_host:
        return found | {"refr_medium": "internal"}
    for medium, sources in _SOURCES.items():
        for pattern, name, term in sources:
            if _is_host(host.lower(), pattern):
                found |= {"refr_medium": medium, "refr_source": name}
                said = _query(found.get("refr_urlquery") or "").get(term) if term else None
                return found | ({"refr_term": said} if said else {})
    return found | {"refr_medium": "unknown"}


def _is_host(host: str, pattern: str) -> bool:
    """Whether a host is one of a site, or of its subdomains; `google.` stands for every country's."""
    if pattern.endswith("."):
        return host.startswith(pattern) or f".{pattern}" in host
    return host == pattern or host.endswith(f".{pattern}")


def _parts(url: str, prefix: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url) if len(url) <= LONGEST else None
        if parts is None or not parts.scheme:
            return {}
        port = parts.port or (443 if parts.scheme == "https" else 80)
        values = (parts.scheme, parts.hostname, port, parts.path, parts.query, parts.fragment)
    except ValueError:
        return {}
    return {f"{prefix}_url{name}": value for name, value in zip(_PARTS, values, strict=True) if value}


def _query(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, max_num_fields=_MOST_PARAMETERS))
    except ValueError:
        return {}
