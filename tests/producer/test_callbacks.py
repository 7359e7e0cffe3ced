"""Callbacks' signatures, the addresses that they may go to, and the operator's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.producer.callbacks.addresses import Addressees, AddressRefused
from darkroom.producer.callbacks.receivers import read_receivers
from darkroom.producer.callbacks.signing import SecretUnusable, secret_bytes, signed_headers
from darkroom.schemas.errors import SettingsError
from darkroom.schemas.settings import HooksSettings

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOT_PUBLIC = (
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "[::1]", "[::]", "[fe80::1]", "[fd00::1]",
    "[ff02::1]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]",
    "[2002:7f00:1::1]", "[2002:a00:1::]", "[2001:db8::1]", "[fec0::1]",
)  # fmt: skip


def test_the_signature_is_that_of_the_standard_s_own_libraries() -> None:
    # The example of the reference libraries' own tests (standard-webhooks 1.0, svix).
    headers = signed_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [secret_bytes(SECRET)]
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_two_secrets_sign_twice() -> None:
    both = [secret_bytes(SECRET), bytes(range(24))]
    [first, second] = signed_headers("msg", 1, b"{}", both)["webhook-signature"].split(" ")
    assert [first] == signed_headers("msg", 1, b"{}", both[:1])["webhook-signature"].split(" ")
    assert [second] == signed_headers("msg", 1, b"{}", both[1:])["webhook-signature"].split(" ")


@pytest.mark.parametrize("text", ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_%%%", "whsec_AAAA", 7, None])
def test_what_is_no_secret_is_refused_without_being_told(text: object) -> None:
    with pytest.raises(SecretUnusable) as refused:
        secret_bytes(text)
    assert "MfKQ" not in str(refused.value)


@pytest.mark.parametrize("host", NOT_PUBLIC)
async def test_addresses_that_are_not_public_are_refused_written_and_resolved(host: str) -> None:
    with pytest.raises(AddressRefused, match="not a public address"):
        Addressees(()).check(f"https://{host}/x")
    everything = Addressees(("0.0.0.0/0", "::/0"))
    assert await everything.resolve(everything.check(f"https://{host}/x")), "and an allowed network allows them"
    with pytest.raises(AddressRefused, match="not a public address"):
        await Addressees(()).resolve(everything.check(f"https://{host}/x"))


@pytest.mark.parametrize("host", ["localhost", "127.1", "0x7f000001", "2130706433", "017700000001"])
async def test_names_of_this_machine_are_refused_when_they_are_resolved(host: str) -> None:
    with pytest.raises((AddressRefused, OSError)):
        await Addressees(()).resolve(Addressees(()).check(f"http://{host}:80/"))


async def test_one_forbidden_address_of_a_name_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    async def found(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", (address, 0)) for address in ("93.184.215.14", "10.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1"):
        await Addressees(()).resolve(Addressees(()).check("https://studio.example/"))
    one = await Addressees(("10.0.0.0/8",)).resolve(Addressees(()).check("https://studio.example/"))
    assert str(one) == "93.184.215.14"


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "ftp://studio.example/", "https://", "https:///x", "//studio.example/", "https://u:p@studio.example/",
        "https://studio.example/#x", "https://studio.example/a b", "https://studio.example/\r\nHost: x",
        "https://studio.example\\@127.0.0.1/", "https://stüdio.example/", "https://studio.example:99999/",
        "https://studio.example:0/", "https://[::1/", "javascript:alert(1)", "https://studio.example/" + "x" * 2000, 7,
        ["https://studio.example/"],
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_callback_is_refused(url: object) -> None:
    with pytest.raises(AddressRefused):
        Addressees(()).check(url)


@pytest.mark.parametrize("url", ["https://studio.example/x?y=z", "http://studio.example:8080", "https://8.8.8.8/"])
def test_public_urls_are_taken(url: str) -> None:
    assert Addressees(()).check(url).geturl() == url


def test_the_file_names_tenants_secrets_and_urls(tmp_path: Path) -> None:
    file = tmp_path / "callbacks.toml"
    file.write_text(f'[tenants.studio]\nsecrets = ["{SECRET}"]\nurl = "https://studio.example/"\n')
    receivers = read_receivers(HooksSettings(file=file))
    assert receivers["studio"].url == "https://studio.example/"
    assert receivers["studio"].secrets == (secret_bytes(SECRET),)
    assert read_receivers(HooksSettings()) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tenants.studio", "TOML"),
        ("x = 1", "beside"),
        ("tenants = 1", "no table"),
        ("[tenants]\nstudio = 1", "no table"),
        ("[tenants.studio]", "needs secrets"),
        ("[tenants.studio]\nsecrets = []", "needs secrets"),
        ('[tenants.studio]\nsecrets = ["x"]', "whsec_"),
        (f'[tenants.studio]\nsecret = "{SECRET}"', "neither secrets nor url"),
        (f'[tenants."a/b"]\nsecrets = ["{SECRET}"]', "not a tenant"),
        (f'[tenants.studio]\nsecrets = ["{SECRET}"]\nurl = "http://10.0.0.1/"', "not a public address"),
        ("\ud800", "UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "callbacks.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(SettingsError, match=said) as refused:
        read_receivers(HooksSettings(file=file))
    assert SECRET not in str(refused.value)
    assert "DARKROOM_HOOKS__FILE" in str(refused.value)


def test_a_missing_file_and_a_bad_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read_receivers(HooksSettings(file=tmp_path / "none.toml"))
    with pytest.raises(ValueError, match="allowed_networks"):
        HooksSettings(allowed_networks=("10.0.0.1/8",))
