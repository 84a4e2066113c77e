from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from sampan.cli import registry_auth
from sampan.cli.failure import Failure
from sampan.cli.registry_auth import Credentials


def write(directory: Path, config: object) -> None:
    (directory / "config.json").write_text(json.dumps(config))


def test_a_login_is_stored_as_docker_stores_it_and_other_keys_stay(tmp_path: Path) -> None:
    write(tmp_path, {"psFormat": "x", "auths": {"other": {"auth": "b3RoZXI6eA=="}}})
    path = registry_auth.store(str(tmp_path), Credentials("host:5000", "user", "pässword:with:colons"))
    config = json.loads(Path(path).read_text())
    auth = base64.b64encode("user:pässword:with:colons".encode()).decode()
    assert config == {
        "psFormat": "x",
        "auths": {"other": {"auth": "b3RoZXI6eA=="}, "host:5000": {"auth": auth}},
    }
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert registry_auth.find(str(tmp_path), "host:5000").password == "pässword:with:colons"
    assert list(tmp_path.iterdir()) == [tmp_path / "config.json"]


def test_docker_hub_has_its_old_key(tmp_path: Path) -> None:
    write(tmp_path, {"auths": {"https://index.docker.io/v1/": {"auth": base64.b64encode(b"a:b").decode()}}})
    assert registry_auth.find(str(tmp_path), "docker.io").username == "a"


def test_credentials_are_given_only_to_their_registry(tmp_path: Path) -> None:
    write(tmp_path, {"auths": {"host:5000": {"auth": base64.b64encode(b"a:b").decode()}}})
    assert registry_auth.find(str(tmp_path), "host:5001").as_json() == {"serveraddress": "host:5001"}


def test_a_logout_forgets_only_that_registry(tmp_path: Path) -> None:
    write(tmp_path, {"auths": {"a": {"auth": "YTpi"}, "b": {"auth": "YTpi"}}})
    assert registry_auth.erase(str(tmp_path), "a")
    assert not registry_auth.erase(str(tmp_path), "a")
    assert json.loads((tmp_path / "config.json").read_text())["auths"] == {"b": {"auth": "YTpi"}}


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """docker-credential-test: get answers, store and erase write down what they were told."""
    program = tmp_path / "bin/docker-credential-test"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        f'cat > "{tmp_path}/$1"\n'
        f'if [ "$1" = get ]; then\n'
        f'  if grep -q nobody "{tmp_path}/get"; then echo "credentials not found in native keychain"; exit 1; fi\n'
        '  echo \'{"ServerURL":"h","Username":"<token>","Secret":"tok"}\'\nfi\n'
        'if [ "$1" = list ]; then echo \'{"h":"u"}\'; fi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path


def test_a_credential_helper_is_asked_and_told(helper: Path) -> None:
    write(helper, {"credsStore": "test"})
    assert registry_auth.find(str(helper), "h").as_json() == {"serveraddress": "h", "identitytoken": "tok"}
    assert (helper / "get").read_text() == "h"
    assert registry_auth.find(str(helper), "nobody").as_json() == {"serveraddress": "nobody"}
    assert registry_auth.store(str(helper), Credentials("h", "u", "p")) == ""
    assert json.loads((helper / "store").read_text()) == {"ServerURL": "h", "Username": "u", "Secret": "p"}
    assert json.loads((helper / "config.json").read_text())["auths"] == {"h": {}}
    assert registry_auth.erase(str(helper), "h")
    assert (helper / "erase").read_text() == "h"
    assert registry_auth.find_all(str(helper)) == {"h": {"serveraddress": "h", "identitytoken": "tok"}}


def test_a_helper_that_is_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"credHelpers": {"h": "absent"}})
    with pytest.raises(Failure, match="docker-credential-absent"):
        registry_auth.find(str(tmp_path), "h")


def test_a_broken_config_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(Failure, match=r"config\.json"):
        registry_auth.store(str(tmp_path), Credentials("h", "u", "p"))
    assert (tmp_path / "config.json").read_text() == "{"


def test_the_header_is_url_safe_base64_of_json() -> None:
    header = Credentials("h", "u?>", "p~~~").header()
    assert json.loads(base64.urlsafe_b64decode(header))["username"] == "u?>"
    assert "+" not in header and "/" not in header
