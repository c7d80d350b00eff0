"""``SPOOL_URL``: what is taken for a database is what was meant, and no part of a password is taken for a name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from legacy_email_proxy.contracts import SettingsMistake
from legacy_email_proxy.testing import context_for
from legacy_email_proxy_plugins.spool import SpoolRelay
from legacy_email_proxy_plugins.spool.postgres_connection import conninfo, server_name
from legacy_email_proxy_plugins.spool.settings import Place

TAKEN = {
    "postgresql://host/db": "postgresql://host/db",
    "postgres://u:p@host.example:5433/db": "postgresql://host.example:5433/db",
    "postgresql://u:p%40ss%2F%231@host/db?sslmode=verify-full": "postgresql://host/db",
    "postgresql://u:p@[2001:db8::1]:5432/db": "postgresql://2001:db8::1:5432/db",
    "postgresql://a.example:1,b.example:2/db": "postgresql://a.example,b.example:1,2/db",
    "postgresql://%2Frun%2Fpostgresql/db": "postgresql:///run/postgresql/db",
    "postgresql:///db?host=/run/postgresql": "postgresql:///run/postgresql/db",
    "host=h port=5433 dbname=db user=u password='p@s\\'s/#1'": "postgresql://h:5433/db",
    "  dbname = db host = /run/postgresql": "postgresql:///run/postgresql/db",
}

REFUSED = [
    "postgresql://u:its-p@ss#1@host/db",
    "postgresql://u:its-p@ss@host/db",
    "postgresql://u:s3cret/pass@host/db",
    "postgresql://u:12345/pass@host/db",
    "postgresql://u:s3cret?pass@host/db",
    "postgresql://u:s3cret#pass@host/db",
    "postgresql://u:s3cret pass@host/db",
    "postgresql://u:s3c%zzret@host/db",
    "postgresql://u@corp:s3cret@host/db",
    "host=h password=s3cret pass dbname=db",
    "password=s3cret host=x@host",
    "host=h passwort=s3cret",
]


def place(url: str, folder: Path) -> Place:
    return Place.from_context(context_for(SpoolRelay, folder, SPOOL_URL=url))


@pytest.mark.parametrize("url", TAKEN)
def test_what_is_taken_and_how_the_log_names_it(url: str, tmp_path: Path) -> None:
    assert place(url, tmp_path).name == TAKEN[url]


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_not_what_it_seems_is_refused_without_a_word_of_it(url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsMistake) as caught:
        place(url, tmp_path)
    (line,) = caught.value.lines
    assert line.startswith("SPOOL_URL: that is no URL of a PostgreSQL database; write postgresql://")
    assert "%40 for @" in line
    assert "or libpq's host=… user=… password='…' dbname=…" in line
    assert not any(piece in line for piece in ("s3c", "its-p", "ss#1", "12345", "zzret"))


@given(user=st.text(min_size=1), password=st.text(min_size=1))
def test_no_password_becomes_a_part_of_the_name(user: str, password: str) -> None:
    try:
        info = conninfo(f"postgresql://{user}:{password}@host.example/db")
    except ValueError:
        return
    assert server_name(info) == "postgresql://host.example/db"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_password_can_be_written(password: str) -> None:
    info = conninfo(f"postgresql://u:{quote(password, safe='')}@host.example/db")
    assert conninfo_to_dict(info)["password"] == password
    assert server_name(info) == "postgresql://host.example/db"
