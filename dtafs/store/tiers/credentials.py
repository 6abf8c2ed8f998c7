"""Where the credentials for an object store are found: never on a command line, never in `config.toml`.

In this order: the systemd credential `dtafs-NAME` of a tier (`LoadCredential=dtafs-warm:FILE`, a file
like `~/.aws/credentials`); the profile that the tier's table names; `AWS_ACCESS_KEY_ID` and its
companions; the profile `AWS_PROFILE`, or `default`, of the AWS files. A profile that would need a
program, a browser or a role to get its keys is refused by name.
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dtafs.errors import RefusedError, from_os_error

WITH_CREDENTIALS = (
    "credentials have no place in a {}: others may have seen them, so change them, and put the new ones "
    "where they are looked for (README, Tiers)"
)
"""Says so without repeating them."""


class Credentials(NamedTuple):
    """A key pair, and a session token or "". Shown nowhere: `repr` hides what is secret."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:
        return f"Credentials({self.access_key[:4]}…)"


class AwsFiles:
    """The profiles in the AWS files that an environment names."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        home = Path(environment.get("HOME", "/")) / ".aws"
        self.paths = [
            Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials"),
            Path(environment.get("AWS_CONFIG_FILE") or home / "config"),
        ]

    def profile(self, name: str) -> dict[str, str]:
        """What the files say of a profile; the first of them has precedence."""
        found: dict[str, str] = {}
        for path in self.paths:
            sections = _sections(path)
            for section in (name, f"profile {name}"):
                found = {**sections.get(section, {}), **found}
        return found


def find_credentials(tier: str, profile: str | None, environment: Mapping[str, str]) -> Credentials:
    """The credentials of a tier as they are now; RefusedError says where some can be put."""
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if folder:
        sections = _sections(Path(folder) / f"dtafs-{tier}")
        found = _pair(sections.get(profile or "default", {}))
        if found is not None:
            return found
    name = environment.get("AWS_PROFILE") or "default"
    if profile is None:
        found = _pair({key.lower(): value for key, value in environment.items()})
        if found is not None:
            return found
    facts = AwsFiles(environment).profile(profile or name)
    found = _pair(facts)
    if found is not None:
        return found
    indirect = sorted(key for key in facts if key.startswith(("sso_", "role_", "credential_")))
    if indirect:
        raise RefusedError(
            f"tier {tier}: the AWS profile {profile or name!r} has no keys but {indirect[0]}, which "
            "dtafs does not follow; export the keys to AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    raise RefusedError(
        f"tier {tier}: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or put "
        f"profile {profile or name!r} into ~/.aws/credentials, or load the systemd credential dtafs-{tier}"
    )


def _pair(facts: Mapping[str, str]) -> Credentials | None:
    access, secret = facts.get("aws_access_key_id"), facts.get("aws_secret_access_key")
    if not access or not secret:
        return None
    return Credentials(access, secret, facts.get("aws_session_token", ""))


def _sections(path: Path) -> dict[str, dict[str, str]]:
    """The sections of an INI file; none where there is no such file."""
    parser = configparser.RawConfigParser(strict=False, default_section="\0")
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise from_os_error(error, "reading credentials from") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        # The parser's own text would quote the line, and a secret with it.
        kind = type(error).__name__
        raise RefusedError(f"{path} is not a file of AWS profiles ({kind})") from None
    return {name: dict(parser.items(name)) for name in parser.sections()}
