"""What a legacy link puts into the environment. Expected: Docker's documentation of legacy container links."""

from __future__ import annotations

from sampan.engine.containers.links import environment


def test_a_link_tells_name_address_and_ports() -> None:
    assert set(environment("/web2/db", "172.17.0.5", ("PATH=/bin", "A=b=c", "EMPTY"), [(5432, "tcp")])) == {
        "DB_NAME=/web2/db",
        "DB_PORT=tcp://172.17.0.5:5432",
        "DB_PORT_5432_TCP=tcp://172.17.0.5:5432",
        "DB_PORT_5432_TCP_PROTO=tcp",
        "DB_PORT_5432_TCP_PORT=5432",
        "DB_PORT_5432_TCP_ADDR=172.17.0.5",
        "DB_ENV_A=b=c",
    }


def test_without_ports_there_is_only_the_name_and_a_dash_becomes_an_underscore() -> None:
    assert environment("/web/my-db", "172.17.0.5", (), ()) == ["MY_DB_NAME=/web/my-db"]


def test_the_lowest_tcp_port_is_the_one_and_consecutive_ports_are_a_range() -> None:
    found = environment("/w/d", "1.2.3.4", (), [(53, "udp"), (81, "tcp"), (80, "tcp"), (90, "tcp")])
    assert found[0] == "D_PORT=tcp://1.2.3.4:80"
    assert [line for line in found if "START" in line or "END" in line] == [
        "D_PORT_80_TCP_START=tcp://1.2.3.4:80",
        "D_PORT_80_TCP_PORT_START=80",
        "D_PORT_80_TCP_END=tcp://1.2.3.4:81",
        "D_PORT_80_TCP_PORT_END=81",
    ]
    assert "D_PORT_53_UDP_PROTO=udp" in found and "D_PORT_90_TCP_ADDR=1.2.3.4" in found
