"""pg-amqp install: outbox and inbox without the extension, by a role that is nobody special."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from psycopg import errors, sql

from pg_amqp_daemon.cli import main
from pg_amqp_daemon.install import install, scripts
from servers.postgres import PostgreSQL
from servers.processes import wait_for
from support.outbox import settle
from support.sessions import Session, open_session

PROJECT = Path(__file__).parents[2]
VERSION = scripts.VERSION

# What there is in both schemas, to the last bit.
OBJECTS = """
SELECT 'function' AS kind, oid::regprocedure::text AS name, pg_get_functiondef(oid) AS definition,
       proacl::text AS acl, obj_description(oid, 'pg_proc') AS comment
FROM pg_proc WHERE pronamespace::regnamespace::text IN ('amqp', 'amqp_inner')
UNION ALL
SELECT 'relation', oid::regclass::text, concat(relkind, oid, relfilenode, reloptions), relacl::text,
       obj_description(oid, 'pg_class')
FROM pg_class WHERE relnamespace = 'amqp'::regnamespace
UNION ALL
SELECT 'trigger', tgrelid::regclass || tgname, pg_get_triggerdef(oid), '', ''
FROM pg_trigger WHERE tgrelid = 'amqp.broker'::regclass
UNION ALL
SELECT 'schema', nspname, '', nspacl::text, obj_description(oid, 'pg_namespace')
FROM pg_namespace WHERE nspname = 'amqp_inner'
ORDER BY 1, 2
"""


@pytest.fixture
def bare(postgres: PostgreSQL) -> Iterator[str]:
    """The connection string, as superuser, of a fresh database without the extension.

    Role shop, who may create schemas there, and role clerk, who may nothing, exist beside it.
    """
    with open_session(postgres.dsn()) as admin:
        admin.execute("CREATE ROLE shop LOGIN; CREATE ROLE clerk LOGIN")
        admin.execute("CREATE DATABASE bare")
        admin.execute("GRANT CREATE ON DATABASE bare TO shop")
        yield postgres.dsn("bare")
        admin.execute("DROP DATABASE bare WITH (FORCE)")
        admin.execute("DROP ROLE shop, clerk")


@pytest.fixture
def shop(bare: str) -> str:
    """The connection string of role shop."""
    return f"{bare} user=shop"


@pytest.fixture
def installed(shop: str) -> Iterator[Session]:
    """A session of role shop, who has installed the outbox and has a table of orders."""
    run(shop)
    with open_session(shop) as session:
        session.execute("CREATE SCHEMA app; CREATE TABLE app.orders (id integer)")
        yield session


def invoke(dsn: str, *options: str) -> Result:
    return CliRunner().invoke(main, ["install", "--dsn", dsn, *options])


def run(dsn: str, *options: str) -> str:
    """Run the command and return the line that says what it did."""
    result = invoke(dsn, *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    return result.stdout.strip()


def refusal(dsn: str, *options: str) -> str:
    """Run the command, which fails, and return the line that says why."""
    result = invoke(dsn, *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.removeprefix("Error: ").strip()


def objects(session: Session) -> list[tuple[Any, ...]]:
    return session.execute(OBJECTS).fetchall()


def functions(session: Session) -> list[tuple[Any, ...]]:
    return [row for row in objects(session) if row[0] == "function"]


def value(session: Session, query: str) -> Any:
    row = session.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def publish(session: Session, text: str) -> None:
    session.execute("SELECT amqp.publish_outbox(1, 'amq.topic', 'key', %s)", [text])


def bodies(session: Session) -> list[str]:
    rows = session.execute("SELECT convert_from(body, 'UTF8') FROM amqp.outbox ORDER BY id")
    return [body for (body,) in rows]


# ---- Installing ----


def test_installing(shop: str) -> None:
    assert run(shop) == f"outbox and inbox {VERSION} installed"
    with open_session(shop, autocommit=False) as session:
        assert value(session, "SELECT amqp.outbox_version()") == VERSION
        assert value(session, "SELECT count(*) FROM pg_language WHERE lanname ~ 'python'") == 0
        publish(session, "one")
        publish(session, "two")
        assert bodies(session) == ["one", "two"]


def test_installing_again_changes_nothing(shop: str) -> None:
    run(shop)
    with open_session(shop) as session:
        before = objects(session)
        publish(session, "stays")
        assert run(shop) == f"outbox and inbox {VERSION} are already up to date"
        assert objects(session) == before
        assert bodies(session) == ["stays"]


def test_every_object_has_a_comment(installed: Session) -> None:
    assert [
        name
        for kind, name, _, _, comment in objects(installed)
        if kind == "function" and comment is None
    ] == []


def test_a_schema_that_was_made_for_the_role(bare: str) -> None:
    with open_session(bare) as admin:
        admin.execute("CREATE SCHEMA amqp AUTHORIZATION clerk")
        admin.execute("CREATE SCHEMA amqp_inner AUTHORIZATION clerk")
    assert run(f"{bare} user=clerk") == f"outbox and inbox {VERSION} installed"


def test_what_is_not_qualified_is_postgresql_s_own(bare: str, shop: str) -> None:
    with open_session(bare) as admin:
        admin.execute(
            """
            CREATE SCHEMA evil;
            CREATE DOMAIN evil.text AS pg_catalog.text CHECK (VALUE = 'evil');
            CREATE FUNCTION evil.octet_length(pg_catalog.text) RETURNS integer LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
            GRANT USAGE ON SCHEMA evil TO PUBLIC;
            ALTER ROLE shop IN DATABASE bare SET search_path = evil, pg_catalog
            """
        )
    run(shop)
    with open_session(shop) as session:
        publish(session, "one")
        session.execute("SET search_path = pg_catalog")
        assert bodies(session) == ["one"]
        assert not value(
            session, "SELECT string_agg(pg_get_functiondef(oid), '') ~ 'evil' FROM pg_proc"
            " WHERE pronamespace::regnamespace::text IN ('amqp', 'amqp_inner')"
        )  # fmt: skip


def test_two_who_install_at_once(shop: str, bare: str) -> None:
    said: list[str] = []
    second = threading.Thread(target=lambda: said.append(install.install(shop)))
    with open_session(bare) as admin, open_session(shop, autocommit=False) as first:
        first.execute("SELECT pg_advisory_xact_lock(1634562418, 0)")
        first.execute("CREATE SCHEMA amqp; CREATE SCHEMA amqp_inner")
        for script in scripts.outbox():
            first.execute(script.encode())
        second.start()
        wait_for(
            lambda: admin.execute(
                "SELECT FROM pg_stat_activity WHERE usename = 'shop' AND wait_event = 'advisory'"
            ).fetchall(),
            30,
            "the second installation to wait",
        )
        first.commit()
        second.join()
    assert said == [f"outbox and inbox {VERSION} are already up to date"]


@pytest.mark.slow
def test_a_lock_that_is_never_let_go_is_not_waited_for_for_ever(shop: str, bare: str) -> None:
    with open_session(bare) as somebody:
        somebody.execute("SELECT pg_advisory_lock(1634562418, 0)")
        assert refusal(shop) == "somebody has held a lock for 5 s: try again"


def test_every_statement_that_creates_is_known_to_upgrade_and_removal() -> None:
    upgrade = "".join(scripts.outbox_upgrade("1.1.0"))
    new = "".join(
        path.read_text()
        for component in ("inbox", "listener")
        for path in (PROJECT / "sql" / component).rglob("*.sql")
    )
    for line in re.findall(r"^CREATE .*", "".join(scripts.outbox()), re.MULTILINE):
        # There was none of these that could be replaced.
        assert (line in upgrade) == (line in new), line
    created = re.findall(r"^CREATE (?:TABLE|VIEW|TYPE|FUNCTION)", "".join(scripts.outbox()), re.M)
    assert len(scripts.outbox_removal()) == len(created) + 1


@pytest.mark.extension
def test_it_is_the_outbox_of_the_extension(bare: str, database: str) -> None:
    run(bare)
    with (
        open_session(bare, autocommit=False) as alone,
        open_session(database, autocommit=False) as extension,
    ):
        ours = {name: (definition, comment) for _, name, definition, _, comment in functions(alone)}
        theirs = {
            name: (definition, comment) for _, name, definition, _, comment in functions(extension)
        }
    del ours["amqp.outbox_version()"]
    # Here it is one under two names.
    assert ours.pop("amqp.publish_change()") == tuple(
        text.replace("publish_change_outbox", "publish_change")
        for text in ours["amqp.publish_change_outbox()"]
    )
    definition, comment = theirs.pop("amqp.publish_change_mqtt()")
    assert ours.pop("amqp.publish_change_mqtt()") == (
        re.sub(
            r"amqp_inner\.publish_change(?=(?:_failed)?\(\n|')",
            "amqp_inner.publish_outbox_change",
            definition,
        ),
        comment,
    )
    assert ours == {name: theirs[name] for name in ours}
    assert {name for name in theirs if "outbox" in name and "_batch(" not in name} <= ours.keys()


# ---- Publishing without the extension ----


@pytest.mark.parametrize("function", ["publish_change", "publish_change_outbox"])
def test_triggers_fill_the_outbox(installed: Session, function: str) -> None:
    installed.execute(
        sql.SQL(
            "CREATE TRIGGER t AFTER INSERT OR DELETE ON app.orders FOR EACH ROW"
            " EXECUTE FUNCTION amqp.{}('1', 'events', '{{op}}.{{new.id}}')"
        ).format(sql.Identifier(function))
    )
    installed.execute("INSERT INTO app.orders VALUES (1), (2)")
    installed.execute("DELETE FROM app.orders WHERE id = 1")
    keys = installed.execute("SELECT exchange, routing_key FROM amqp.outbox ORDER BY id")
    assert keys.fetchall() == [
        ("events", "insert.1"),
        ("events", "insert.2"),
        ("events", "delete.1"),
    ]


def test_whoever_may_use_the_schema_publishes_and_reads_no_bodies(
    installed: Session, bare: str
) -> None:
    with open_session(f"{bare} user=clerk") as clerk:
        with pytest.raises(errors.InsufficientPrivilege):
            publish(clerk, "no")
        installed.execute("GRANT USAGE ON SCHEMA amqp TO clerk")
        publish(clerk, "yes")
        for forbidden in (
            "SELECT body FROM amqp.outbox",
            "SELECT * FROM amqp.dead_letters",
            "DELETE FROM amqp.outbox",
            "SELECT password FROM amqp.broker",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                clerk.execute(forbidden.encode())
    assert bodies(installed) == ["yes"]


def test_default_privileges_do_not_show_passwords(bare: str, shop: str) -> None:
    with open_session(shop) as session:
        session.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")
        run(shop)
        session.execute("GRANT USAGE ON SCHEMA amqp TO clerk")
    with open_session(f"{bare} user=clerk", autocommit=False) as clerk:
        tables = "broker outbox outbox_dead outbox_delivered dead_letters influxdb consumer inbox"
        tables += " inbox_dead inbox_seen inbox_offset inbox_state"
        for table in tables.split():
            with pytest.raises(errors.InsufficientPrivilege), clerk.transaction():
                clerk.execute(sql.SQL("SELECT * FROM amqp.{}").format(sql.Identifier(table)))


def test_wrong_broker_rows_are_refused(installed: Session) -> None:
    installed.execute("INSERT INTO amqp.broker (host) VALUES ('rabbit.test')")
    with pytest.raises(errors.CheckViolation) as caught:
        installed.execute(
            "INSERT INTO amqp.broker (host, port, password) VALUES ('x', 0, 'secret')"
        )
    assert "secret" not in str(caught.value)


# ---- Upgrading ----


def make_older(session: Session, version: str = "1.1.0") -> None:
    """Put an earlier version in the place of what is installed, as its pg-amqp did."""
    script = (PROJECT / f"tests/upgrade/outbox-{version}.sql").read_text()
    with session.transaction():
        session.execute("DROP SCHEMA amqp, amqp_inner CASCADE; CREATE SCHEMA amqp")
        session.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        session.execute(script.encode())


def definitions(session: Session) -> list[tuple[Any, ...]]:
    """`objects` but for the identity of the relations."""
    return [(kind, name, definition if kind != "relation" else "", acl, comment)
            for kind, name, definition, acl, comment in objects(session)]  # fmt: skip


@pytest.mark.parametrize("version", ["1.1.0", "1.2.0", "1.3.0"])
def test_upgrade_in_place(installed: Session, shop: str, version: str) -> None:
    newest = definitions(installed)
    make_older(installed, version)
    installed.execute(
        "CREATE TRIGGER t AFTER INSERT ON app.orders FOR EACH ROW"
        " EXECUTE FUNCTION amqp.publish_change('1', 'events')"
    )
    publish(installed, "waits")
    installed.execute("INSERT INTO app.orders VALUES (1)")
    installed.execute("INSERT INTO amqp.broker (host) VALUES ('rabbit.test')")
    assert run(shop) == f"outbox and inbox upgraded from {version} to {VERSION}"
    assert definitions(installed) == newest
    installed.execute("INSERT INTO app.orders VALUES (2)")
    first, second, third = bodies(installed)
    assert first == "waits"
    assert '"id": 1' in second
    assert '"id": 2' in third
    assert value(installed, "SELECT host FROM amqp.broker") == "rabbit.test"
    assert run(shop) == f"outbox and inbox {VERSION} are already up to date"


def test_upgrade_that_fails_changes_nothing(installed: Session, shop: str) -> None:
    make_older(installed)
    installed.execute("CREATE VIEW amqp.outbox_lease AS SELECT 1")
    before = objects(installed)
    assert refusal(shop) == '"outbox_lease" is not a table'
    assert objects(installed) == before


def test_a_newer_one_is_left_alone(installed: Session, shop: str) -> None:
    installed.execute(
        "CREATE OR REPLACE FUNCTION amqp.outbox_version() RETURNS text"
        " LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN '1.10.0'"
    )
    before = objects(installed)
    expected = f"outbox 1.10.0 is in this database, and this pg-amqp is {VERSION}: use a later one"
    assert refusal(shop) == expected
    assert refusal(shop, "--uninstall") == expected
    assert objects(installed) == before


@pytest.mark.slow
def test_publishers_are_not_kept_waiting_for_long(installed: Session, shop: str) -> None:
    make_older(installed)
    with open_session(shop, autocommit=False) as publisher:
        publish(publisher, "not committed")
        assert refusal(shop).startswith("somebody has held a lock")


# ---- Removing ----


def test_removing(installed: Session, shop: str) -> None:
    installed.execute("INSERT INTO amqp.broker (host) VALUES ('rabbit.test')")
    assert run(shop, "--uninstall") == f"outbox and inbox {VERSION} removed"
    assert (
        value(installed, "SELECT COALESCE(to_regnamespace('amqp'), to_regnamespace('amqp_inner'))")
        is None
    )
    assert run(shop, "--uninstall") == "outbox and inbox are not installed"
    assert run(shop) == f"outbox and inbox {VERSION} installed"


def test_removing_with_messages(installed: Session, shop: str) -> None:
    publish(installed, "one")
    publish(installed, "two")
    settle(installed, refused=[(2, "invalid", "no")])
    publish(installed, "three")
    before = objects(installed)
    said = refusal(shop, "--uninstall")
    assert said.startswith("undelivered messages: 2, dead letters: 1; ")
    assert objects(installed) == before
    for advice in ("TRUNCATE amqp.outbox", "amqp.discard_dead_letters()"):
        assert advice in said
    installed.execute("TRUNCATE amqp.outbox")
    assert refusal(shop, "--uninstall").startswith("undelivered messages: 0, dead letters: 1; ")
    installed.execute("SELECT amqp.discard_dead_letters()")
    assert run(shop, "--uninstall") == f"outbox and inbox {VERSION} removed"


def test_the_name_that_the_command_had_works_and_is_not_shown(shop: str) -> None:
    runner = CliRunner()
    said = runner.invoke(main, ["install-outbox", "--dsn", shop])
    assert said.stdout == f"outbox and inbox {VERSION} installed\n"
    assert "install-outbox" not in runner.invoke(main, ["--help"]).stdout


def test_removing_with_messages_that_came_in(installed: Session, shop: str) -> None:
    installed.execute("INSERT INTO amqp.inbox (consumer, body) VALUES ('audit', 'kept')")
    installed.execute(
        "INSERT INTO amqp.inbox_dead (consumer, sqlstate, error, raw_place, raw_properties)"
        " SELECT 'audit', '22P02', 'no JSON', '', '' FROM generate_series(1, 2)"
    )
    before = objects(installed)
    said = refusal(shop, "--uninstall")
    assert said.startswith("messages in amqp.inbox: 1, dead messages: 2; ")
    assert objects(installed) == before
    installed.execute("TRUNCATE amqp.inbox")
    assert refusal(shop, "--uninstall").startswith("messages in amqp.inbox: 0, dead messages: 2; ")
    installed.execute("SELECT amqp.discard_dead_messages('audit')")
    assert run(shop, "--uninstall") == f"outbox and inbox {VERSION} removed"


@pytest.mark.parametrize("version", scripts.EARLIER[1:])
def test_removing_an_earlier_version(shop: str, version: str) -> None:
    with open_session(shop) as session:
        with session.transaction():
            session.execute("CREATE SCHEMA amqp")
            session.execute("SET LOCAL search_path = pg_catalog, pg_temp")
            session.execute((PROJECT / f"tests/upgrade/outbox-{version}.sql").read_bytes())
        assert run(shop, "--uninstall") == f"outbox and inbox {version} removed"


def test_removing_what_consumers_use(installed: Session, shop: str) -> None:
    installed.execute("CREATE FUNCTION app.take(amqp.message) RETURNS void RETURN NULL")
    before = objects(installed)
    assert "function app.take(amqp.message)" in refusal(shop, "--uninstall")
    assert objects(installed) == before


def test_removing_beside_somebody_who_publishes(installed: Session, shop: str) -> None:
    """What is not committed yet is seen in the end."""
    with open_session(installed.info.dsn, autocommit=False) as other:
        publish(other, "uncommitted")
        said: list[str] = []
        removing = threading.Thread(target=lambda: said.append(refusal(shop, "--uninstall")))
        removing.start()
        wait_for(
            lambda: installed.execute(
                "SELECT FROM pg_locks WHERE NOT granted AND relation = 'amqp.outbox'::regclass"
            ).fetchall(),
            30,
            "it to wait",
        )
        other.commit()
        removing.join()
    assert said[0].startswith("undelivered messages: 1, dead letters: 0; ")


def test_removing_what_triggers_use(installed: Session, shop: str) -> None:
    installed.execute(
        "CREATE TRIGGER t AFTER INSERT ON app.orders FOR EACH ROW"
        " EXECUTE FUNCTION amqp.publish_change('1', 'events')"
    )
    assert "trigger t on table app.orders depends on" in refusal(shop, "--uninstall")
    installed.execute("INSERT INTO app.orders VALUES (1)")
    assert len(bodies(installed)) == 1


def test_removing_leaves_what_is_not_its_own(installed: Session, shop: str) -> None:
    installed.execute("CREATE FUNCTION amqp.publish_outbox(x integer) RETURNS integer RETURN x")
    said = run(shop, "--uninstall")
    assert said == f"outbox and inbox {VERSION} removed; schema amqp stays, it holds other objects"
    assert value(installed, "SELECT amqp.publish_outbox(7)") == 7
    assert {kind for kind, name in _names(installed)} == {"function"}


def _names(session: Session) -> list[tuple[str, str]]:
    rows = session.execute(
        "SELECT 'function', proname FROM pg_proc WHERE pronamespace = 'amqp'::regnamespace"
        " UNION ALL SELECT 'relation', relname FROM pg_class"
        " WHERE relnamespace = 'amqp'::regnamespace"
    )
    return [(kind, name) for kind, name in rows]


# ---- What cannot be done, in one line ----


@pytest.mark.extension
def test_beside_the_extension(database: str) -> None:
    assert "extension pg_amqp_py" in refusal(database)
    assert "it brings outbox and inbox" in refusal(database)
    assert "extension pg_amqp_py" in refusal(database, "--uninstall")


@pytest.mark.extension
def test_the_extension_beside_it(installed: Session, bare: str) -> None:
    with open_session(bare) as admin:
        with pytest.raises(errors.DuplicateObject) as caught:
            admin.execute("CREATE EXTENSION pg_amqp_py CASCADE")
        assert "pg-amqp install --uninstall" in str(caught.value.diag.message_hint)
        publish(installed, "still works")


@pytest.mark.parametrize("schema", ["amqp", "amqp_inner"])
def test_a_schema_of_somebody_else(bare: str, shop: str, schema: str) -> None:
    with open_session(bare) as admin:
        admin.execute(f"CREATE SCHEMA {schema} AUTHORIZATION clerk".encode())
    assert refusal(shop) == f'schema {schema} belongs to role "clerk": connect as this role'


def test_a_superuser_runs_nothing_that_others_have_put_there(installed: Session, bare: str) -> None:
    installed.execute(
        "CREATE OR REPLACE FUNCTION amqp.outbox_version() RETURNS text LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$"
    )
    assert refusal(bare) == 'schema amqp belongs to role "shop": connect as this role'


def test_a_schema_with_other_tables(bare: str, shop: str) -> None:
    with open_session(shop) as session:
        session.execute("CREATE SCHEMA amqp; CREATE TABLE amqp.broker (id integer)")
        assert refusal(shop) == 'relation "broker" already exists'
        assert [name for _, name in _names(session)] == ["broker"]


def test_without_the_privilege(bare: str) -> None:
    assert refusal(f"{bare} user=clerk") == (
        'role "clerk" may not create schemas in database "bare": GRANT CREATE ON DATABASE,'
        " or CREATE SCHEMA ... AUTHORIZATION this role, for amqp and amqp_inner"
    )
    with open_session(bare) as admin:
        admin.execute("CREATE SCHEMA amqp AUTHORIZATION clerk")
    assert refusal(f"{bare} user=clerk").endswith("AUTHORIZATION this role, for amqp_inner")


def test_a_server_that_is_too_old(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "OLDEST_SERVER", 99)
    assert refusal(shop) == "the server is older than PostgreSQL 99"


def test_no_server(tmp_path: Path) -> None:
    said = refusal(f"host={tmp_path} user=shop password=s3cret")
    assert "No such file or directory" in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    "dsn",
    [
        "password = 's3cret",
        "s3cret",
        "postgresql://shop:s3@cret@localhost/x",
        "postgresql://shop:s3/cret@localhost/x",
        "postgresql://shop:s3?cret@localhost/x",
    ],
)
def test_a_connection_string_that_is_wrong_is_not_repeated(dsn: str) -> None:
    result = invoke(dsn)
    assert result.exit_code == 2
    assert "not a connection string" in result.stderr
    assert "s3" not in result.stderr
    assert "cret" not in result.stderr
