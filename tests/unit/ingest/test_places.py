"""Places of addresses, out of a MaxMind file written here by the format's description (maxmind.github.io/MaxMind-DB)."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any

from ingest.clients.sender import location_reader

CITY = {
    "continent": {"code": "EU"},
    "country": {"iso_code": "GB", "names": {"en": "United Kingdom", "de": "Vereinigtes Königreich"}},
    "subdivisions": [{"iso_code": "ENG", "names": {"en": "England"}}],
    "city": {"names": {"en": "London"}},
    "postal": {"code": "OX1"},
    "location": {"time_zone": "Europe/London"},
}


class U16(int):
    """A number of two bytes."""


class U64(int):
    """A number of eight bytes, which is a type beyond the first seven."""


def encoded(value: Any) -> bytes:
    """A value of the data section: strings, unsigned integers, maps, arrays."""
    if isinstance(value, str):
        data = value.encode()
        return _control(2, len(data)) + data
    if isinstance(value, int):
        data = value.to_bytes(8, "big").lstrip(b"\0")
        if isinstance(value, U64):
            return bytes([len(data), 9 - 7]) + data
        return _control(5 if isinstance(value, U16) else 6, len(data)) + data
    if isinstance(value, dict):
        return _control(7, len(value)) + b"".join(encoded(key) + encoded(inner) for key, inner in value.items())
    return bytes([len(value), 11 - 7]) + b"".join(encoded(inner) for inner in value)


def _control(kind: int, size: int) -> bytes:
    return bytes([kind << 5 | size]) if size < 29 else bytes([kind << 5 | 29, size - 29])


def write_database(path: Path, network: IPv4Network, record: dict[str, Any]) -> None:
    """A database that knows one network."""
    nodes = network.prefixlen
    tree = b""
    for depth in range(nodes):
        bit = int(network.network_address) >> (31 - depth) & 1
        following = depth + 1 if depth + 1 < nodes else nodes + 16
        pair = [nodes, nodes]  # the number of nodes stands for "not found"
        pair[bit] = following
        tree += b"".join(each.to_bytes(3, "big") for each in pair)
    metadata = {
        "node_count": nodes, "record_size": U16(24), "ip_version": U16(4), "database_type": "Test",
        "binary_format_major_version": U16(2), "binary_format_minor_version": U16(0), "build_epoch": U64(1), "languages": ["en"], "description": {},
    }  # fmt: skip
    path.write_bytes(tree + bytes(16) + encoded(record) + b"\xab\xcd\xefMaxMind.com" + encoded(metadata))


def test_an_address_has_the_place_of_its_network(tmp_path: Path) -> None:
    network = ip_network("81.2.69.0/24")
    assert isinstance(network, IPv4Network)
    write_database(tmp_path / "city.mmdb", network, CITY)
    with location_reader(str(tmp_path / "city.mmdb")) as read:
        assert read("81.2.69.160") == {
            "country": "GB",
            "countryName": "United Kingdom",
            "continent": "EU",
            "region": "ENG",
            "regionName": "England",
            "city": "London",
            "postalCode": "OX1",
            "timezone": "Europe/London",
        }
        assert read("81.2.70.1") is None
        assert read("2001:db8::1") is None
        assert read("nonsense") is None
