from __future__ import annotations

import pytest

from sampan.network import resolvconf
from sampan.network.resolvconf import ResolvConf

HOST = """\
# made by hand
nameserver 192.0.2.53
nameserver fd00::53
nameserver not-an-address
search corp.example example.org ; comment
domain last.example
options ndots:2 edns0
options rotate
sortlist 10.0.0.0
"""


def test_the_last_search_or_domain_line_wins_and_malformed_lines_are_ignored():
    conf = resolvconf.parse(HOST)
    assert conf == ResolvConf(("192.0.2.53", "fd00::53"), ("last.example",), ("ndots:2", "edns0", "rotate"))


def test_a_container_gets_the_host_s_resolvers_that_it_can_reach():
    assert resolvconf.for_container(resolvconf.parse(HOST)).nameservers == ("192.0.2.53",)
    assert resolvconf.for_container(resolvconf.parse(HOST), ipv6=True).nameservers == (
        "192.0.2.53",
        "fd00::53",
    )


def test_behind_systemd_s_stub_are_the_real_resolvers():
    stub = resolvconf.parse("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n")
    real = resolvconf.parse("nameserver 192.0.2.1\nsearch lan\n")
    assert resolvconf.wants_systemd(stub)
    assert resolvconf.for_container(stub, real) == real
    assert resolvconf.upstream(stub, real) == ("192.0.2.1",)


def test_a_resolver_on_the_host_s_loopback_is_replaced_by_docker_s_public_ones():
    local = resolvconf.parse("nameserver 127.0.0.1\nnameserver ::1\n")
    assert resolvconf.for_container(local).nameservers == ("8.8.8.8", "8.8.4.4")
    assert resolvconf.for_container(ResolvConf()).nameservers == ("8.8.8.8", "8.8.4.4")
    with_ipv6 = ("8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844")
    assert resolvconf.for_container(local, ipv6=True).nameservers == with_ipv6
    assert resolvconf.upstream(local) == ("127.0.0.1", "::1")  # the name server asks from the host


def test_on_a_user_defined_network_the_name_server_is_the_only_resolver():
    text = resolvconf.render(resolvconf.for_embedded(resolvconf.parse("nameserver 192.0.2.1\nsearch lan\n")))
    assert text == "nameserver 127.0.0.11\nsearch lan\noptions ndots:0\n"
    kept = resolvconf.for_embedded(resolvconf.parse(HOST))
    assert kept.options == ("ndots:2", "edns0", "rotate")


def test_flags_override_what_they_name():
    base = resolvconf.parse(HOST)
    assert resolvconf.override(base, ["1.1.1.1"]) == ResolvConf(("1.1.1.1",), base.search, base.options)
    assert resolvconf.override(base, search=["."]).search == ()
    assert resolvconf.override(base, search=["a", "b"], options=["ndots:1"]) == ResolvConf(
        base.nameservers, ("a", "b"), ("ndots:1",)
    )


@pytest.mark.parametrize("bad", ["ndots", "ndots:", "ndots:x", "ndots:-1"])
def test_an_ndots_that_is_no_number_makes_way_for_the_name_servers(bad):
    """As Docker 28.5 does."""
    base = resolvconf.ResolvConf(options=(bad, "timeout:2"))
    assert resolvconf.for_embedded(base).options == ("timeout:2", "ndots:0")
