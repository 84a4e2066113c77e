"""`proxies` of config.json, by docker/cli's rules (cli/config/configfile, ParseProxyConfig)."""

from __future__ import annotations

from sampan.cli.build.proxies import with_proxies

CONFIG = {
    "proxies": {
        "default": {"httpProxy": "http://d:1", "noProxy": "a,b", "ftpProxy": ""},
        "tcp://other:2375": {"httpsProxy": "http://o:2"},
    }
}


def test_each_proxy_is_given_in_both_spellings() -> None:
    assert with_proxies(CONFIG, "unix:///x", {}) == {
        "HTTP_PROXY": "http://d:1",
        "http_proxy": "http://d:1",
        "NO_PROXY": "a,b",
        "no_proxy": "a,b",
    }


def test_an_engine_of_its_own_entry_gets_that_alone() -> None:
    assert with_proxies(CONFIG, "tcp://other:2375", {"A": None}) == {
        "A": None,
        "HTTPS_PROXY": "http://o:2",
        "https_proxy": "http://o:2",
    }


def test_what_was_given_on_the_command_line_wins() -> None:
    found = with_proxies(CONFIG, "", {"HTTP_PROXY": "http://mine", "no_proxy": None})
    assert (found["HTTP_PROXY"], found["http_proxy"]) == ("http://mine", "http://d:1")
    assert (found["no_proxy"], found["NO_PROXY"]) == (None, "a,b")


def test_nonsense_in_the_file_is_passed_over() -> None:
    for proxies in (None, [], {"default": 1}, {"default": {"httpProxy": 7}}):
        assert with_proxies({"proxies": proxies}, "", {"A": "1"}) == {"A": "1"}
