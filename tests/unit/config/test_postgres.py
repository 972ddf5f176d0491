"""The section of the PostgreSQL archive."""

import pytest

from headrace.config import load
from headrace.errors import InvalidConfig

URL = "postgresql://me@db.example:5432/runs"


def loaded(url=URL, **more):
    flags = {"coordinator.archive": "postgres", "postgres.url": url}
    return load(None, {}, flags | {f"postgres.{key}": value for key, value in more.items()})


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (URL, "db.example:5432/runs"),
        ("postgres://db/runs", "db/runs"),
        ("postgresql://me:p%40ss@db/runs?sslmode=verify-full&sslrootcert=/ca.pem", "db/runs"),
        ("postgresql://a:1,b:2/runs?target_session_attrs=read-write", "a:1,b:2/runs"),
        ("postgresql://me@[::1]:5432/runs", "[::1]:5432/runs"),
    ],
)
def test_addresses(url, place):
    assert loaded(url).postgres.place == place


@pytest.mark.parametrize(
    "url",
    [
        "mysql://db/runs",
        "postgresql://db",
        "postgresql:///runs",
        "postgresql://me:s3cret@x@db/runs",
        "postgresql://me:s3/cret@db/runs",
        "postgresql://me:s3cret#@db/runs",
        "postgresql://me:s3cret@db:port/runs",
        "postgresql://me:s3cret@db/runs/more",
        "postgresql://me:s3cret@db/runs?sslmod=require",
        "postgresql://me:s3cret@db/runs?sslmode=",
        "postgresql://me:s3cret@db/runs?password=s3cret",
    ],
)
def test_addresses_that_cannot_be_are_refused_and_not_shown(url):
    with pytest.raises(InvalidConfig, match=r"postgres\.url") as error:
        loaded(url)
    assert "s3" not in str(error.value)


def test_one_password_is_enough(tmp_path):
    assert loaded(password_file="/run/secrets/db").postgres.password_file == "/run/secrets/db"
    with pytest.raises(InvalidConfig, match=r"postgres\.password: give it or postgres\.password_f"):
        loaded(password="x", password_file="y")
    with pytest.raises(InvalidConfig, match=r"a password in postgres\.url, not both"):
        loaded("postgresql://me:x@db/runs", password="y")


def test_the_kind_and_the_address_go_together():
    with pytest.raises(InvalidConfig, match=r'postgres\.url: coordinator\.archive = "postgres"'):
        load(None, {"HEADRACE_CFG_COORDINATOR__ARCHIVE": "postgres"})
    # In an environment that workers share.
    load(None, {"HEADRACE_CFG_POSTGRES__URL": URL})
    with pytest.raises(InvalidConfig, match=r"postgres\.password: means nothing without"):
        load(None, {"HEADRACE_CFG_POSTGRES__PASSWORD": "x"})


@pytest.mark.parametrize("schema", ["", "Upper", "a-b", "a;b", "1a", "x" * 64, 'a"b', "a\n"])
def test_a_schema_is_a_plain_name(schema):
    with pytest.raises(InvalidConfig, match=r"postgres\.schema"):
        loaded(schema=schema)


def test_logins_are_in_no_representation():
    settings = loaded("postgresql://me:s3cret@db/runs").postgres
    assert "s3cret" not in repr(settings)
    assert "hidden" not in repr(loaded(password="hidden"))
