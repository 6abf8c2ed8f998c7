"""Where credentials are looked for, in which order, and that they are shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtafs.errors import RefusedError
from dtafs.store.tiers.credentials import Credentials, find_credentials

KEYS = "aws_access_key_id = {0}-id\naws_secret_access_key = {0}-secret\n"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An AWS file with two profiles, a systemd credential for the tier warm, nothing else."""
    files = tmp_path / "credentials"
    files.write_text(f"[default]\n{KEYS.format('default')}[lab]\n{KEYS.format('lab')}")
    folder = tmp_path / "systemd"
    folder.mkdir()
    (folder / "dtafs-warm").write_text(f"[default]\n{KEYS.format('systemd')}")
    return {
        "AWS_SHARED_CREDENTIALS_FILE": str(files),
        "AWS_CONFIG_FILE": str(tmp_path / "absent"),
        "HOME": str(tmp_path),
    }


def found(environment: dict[str, str], profile: str | None = None, tier: str = "warm") -> str:
    return find_credentials(tier, profile, environment).secret_key.removesuffix("-secret")


def test_the_order(environment: dict[str, str], tmp_path: Path) -> None:
    assert found(environment) == "default"
    assert found(environment, "lab") == "lab"
    assert found({**environment, "AWS_PROFILE": "lab"}) == "lab"
    own = {"AWS_ACCESS_KEY_ID": "own-id", "AWS_SECRET_ACCESS_KEY": "own-secret"}
    assert found({**environment, **own}) == "own"
    assert found({**environment, **own}, "lab") == "lab"
    systemd = {"CREDENTIALS_DIRECTORY": str(tmp_path / "systemd")}
    assert found({**environment, **own, **systemd}) == "systemd"
    assert found({**environment, **own, **systemd}, tier="cold") == "own"


def test_a_session_token_goes_with_the_keys(environment: dict[str, str]) -> None:
    own = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"}
    assert find_credentials("warm", None, {**environment, **own}) == Credentials("a", "b", "c")


def test_none_says_where_some_can_be_put(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="systemd credential dtafs-warm"):
        find_credentials("warm", None, {"HOME": str(tmp_path)})
    with pytest.raises(RefusedError, match="profile 'lab'"):
        find_credentials("warm", "lab", {"HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "a"})


def test_a_profile_that_only_leads_to_keys_is_refused_by_name(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("[profile sso]\nsso_start_url = https://example\n")
    with pytest.raises(RefusedError, match="'sso' has no keys but sso_start_url"):
        find_credentials("warm", "sso", {"AWS_CONFIG_FILE": str(config), "HOME": str(tmp_path)})


def test_secrets_are_in_no_message(environment: dict[str, str]) -> None:
    path = Path(environment["AWS_SHARED_CREDENTIALS_FILE"])
    path.write_text("aws_secret_access_key = hidden\n")
    with pytest.raises(RefusedError) as caught:
        find_credentials("warm", None, environment)
    assert "hidden" not in str(caught.value) and str(path) in str(caught.value)
    assert "hidden" not in repr(Credentials("id", "hidden", "hidden"))
