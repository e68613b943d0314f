"""Changes a table so that a batch fits: creates, adds, widens, keeps the key. It drops only our own keys.

It works in one transaction under the warehouse's lock on the table's name, and reads the catalogue again. Only a program other
than Penstock can get in between; then the whole patch is tried again on the new state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from loader.contract.warehouse import Column, TablePatch, TableSchema
from loader.contract.writes import BEGINNING, CURRENT, VALID_FROM
from loader.sql.dialect import OF_A_COLUMN, Dialect
from loader.sql.live import LiveColumn, LiveTable
from loader.sql.steps import Ask, Commit, Rollback, Run, Steps
from loader.sql.text import OWNER, free_name, no_key, own_guard, own_index, require_key
from shared.errors import Permanent, TableSetupError

TRIES = 4
_NO_KEY = {
    "duplicate": "several rows share one value of it",
    "null": "some rows have no value in it",
    "long": "some values in it are longer than a key takes",
}


def read_tables(dialect: Dialect, schema: str, tables: Sequence[str]) -> Steps[dict[str, LiveTable]]:
    """Returns the tables that the catalogue has, with their keys."""
    found = yield from dialect.read_columns(schema, tables)
    keys = (yield from dialect.read_keys(schema, list(found))) if found else {}
    for name, table in found.items():
        table.keys = keys.get(name, table.keys)
    return found


def describe(dialect: Dialect, schema: str, tables: Sequence[str]) -> Steps[dict[str, TableSchema | None]]:
    """Returns the tables in the core's form; None for a missing table."""
    live = yield from read_tables(dialect, schema, tables)
    return {name: live[name].as_schema() if name in live else None for name in tables}


def create(dialect: Dialect, schema: str, patches: Sequence[TablePatch]) -> Steps[dict[str, TableSchema]]:
    """Creates new tables in one transaction; leaves out tables whose name is taken.

    Raises:
        Permanent: one of them cannot be created.
    """
    names = [patch.table for patch in patches]
    yield Run(dialect.begin)
    yield from dialect.lock(schema, names)
    yield from dialect.make_schema(schema)
    there = {*(yield from dialect.read_columns(schema, names)), *(yield from dialect.other_things(schema, names))}
    wanted = {patch.table: patch for patch in patches if patch.table not in there}
    taken = yield from dialect.own_keys(schema)
    making: dict[str, list[str]] = {}
    for patch in wanted.values():
        parts = yield from _definitions(dialect, patch)
        taken.append(own_index(schema, patch.table, taken))
        made = dialect.create_table(
            schema=schema, table=patch.table, parts=parts.values(), key=patch.primary_key or (), key_name=taken[-1]
        )
        making[patch.table] = [
            made,
            *(yield from _keep_guard(dialect, schema, patch)),
            *ownership(dialect, schema, patch.table, patch.add),
        ]
    if making:
        yield from dialect.create_tables(schema, making)
    found = yield from read_tables(dialect, schema, list(wanted))
    yield Commit()
    return {name: live.as_schema(wanted[name].primary_key, dialect.fold) for name, live in found.items()}


def apply(dialect: Dialect, schema: str, patch: TablePatch) -> Steps[TableSchema]:
    """Makes a table fit, in one transaction; leaves a single column that the warehouse refuses as it is, and names it.

    Raises:
        Permanent: the table cannot be changed; says what to do.
    """
    refused: frozenset[str] = frozenset()
    left = TRIES
    while True:
        left -= 1
        try:
            return (yield from _apply(dialect, schema, patch, refused))
        except Exception as error:
            trouble = dialect.trouble(error)
            if trouble == "refused" and dialect.undo == "transaction" and patch.widen:
                # it says of none of them what is in its way
                refused = frozenset(column.name for column in patch.widen)
                patch = replace(patch, widen=())
            elif trouble not in ("race", "duplicate") or not left:
                raise
            yield Rollback()


def _apply(dialect: Dialect, schema: str, patch: TablePatch, refused: frozenset[str]) -> Steps[TableSchema]:
    yield Run(dialect.begin)
    yield from dialect.lock(schema, [patch.table])
    thing = (yield from dialect.other_things(schema, [patch.table])).get(patch.table)
    if thing is not None:
        raise Permanent(
            f'"{patch.table}" is {thing} in schema "{schema}" and takes no rows; rename it, or choose another name for the table'
        )
    live = (yield from read_tables(dialect, schema, [patch.table])).get(patch.table)
    if live is None:
        yield from dialect.make_schema(schema)
        refused |= yield from _create(dialect, schema, patch)
    else:
        if live.view:
            raise Permanent(
                f'"{patch.table}" is a view, to which neither columns nor a key can be added; choose schema_policy: freeze and '
                "deduplicate: false, or another name for the table"
            )
        if live.unfit:
            raise TableSetupError(live.unfit)
        if patch.history:
            live = yield from _fill_history(dialect, schema, patch, live)
        refused |= yield from _alter(dialect, schema, patch, live)
    guards = yield from _keep_guard(dialect, schema, patch)
    if guards:
        yield Run("; ".join(guards))
    before = live.columns if live else {}
    made = [each for each in patch.add if each.name not in refused and dialect.fold(each.name) not in before]
    owners = ownership(dialect, schema, patch.table, made)
    if owners:
        yield Run("; ".join(owners))
    after = (yield from read_tables(dialect, schema, [patch.table])).get(patch.table)
    if after is None:
        raise Permanent(f'table "{patch.table}" was made and is not there; is "{schema}" the schema that was meant?')
    yield Commit()
    return replace(after.as_schema(patch.primary_key, dialect.fold), refused=refused)


def _create(dialect: Dialect, schema: str, patch: TablePatch) -> Steps[frozenset[str]]:
    parts = yield from _definitions(dialect, patch)
    key = patch.primary_key or ()
    name = own_index(schema, patch.table, (yield from dialect.own_keys(schema)))
    if (
        yield from _tried(
            dialect, dialect.create_table(schema=schema, table=patch.table, parts=parts.values(), key=key, key_name=name)
        )
    ):
        return frozenset()
    first: list[str] = list(key)
    refused: set[str] = set()
    if not key:
        # one column that the warehouse takes, because few of them take a table without any
        for column, part in parts.items():
            if (
                yield from _tried(
                    dialect, dialect.create_table(schema=schema, table=patch.table, parts=[part], key=(), key_name=name)
                )
            ):
                first = [column]
                break
            refused.add(column)
    if key or not first:
        yield Run(
            dialect.create_table(
                schema=schema, table=patch.table, parts=[parts[column] for column in first], key=key, key_name=name
            )
        )
    others = {name: dialect.add_column(part) for name, part in parts.items() if name not in first and name not in refused}
    return frozenset(refused) | (yield from _change(dialect, schema, patch.table, others))


def _keep_guard(dialect: Dialect, schema: str, patch: TablePatch) -> Steps[list[str]]:
    """Returns the statements that make the guard of a table's present key, and drop that of another; none where the warehouse has none."""
    if not patch.history or not patch.primary_key:
        return []
    key = patch.primary_key[:-1]
    there = yield from dialect.guards(schema)
    base = own_guard(schema, patch.table, key)
    own = [name for table, name in there if dialect.fold(table) == dialect.fold(patch.table)]
    name = free_name(base, [name for _, name in there])
    made = dialect.guard(schema=schema, table=patch.table, name=name, key=key, current=CURRENT)
    if not made:
        return []
    has = any(each.startswith(base) for each in own)
    drops = [f"DROP INDEX {dialect.qualified(schema, each)}" for each in own if not each.startswith(base)]
    return drops if has else [*drops, made]


def _fill_history(dialect: Dialect, schema: str, patch: TablePatch, live: LiveTable) -> Steps[LiveTable]:
    """Makes the rows of a table current versions since the beginning, where it kept none yet; returns it as it is then."""
    values = {VALID_FROM: dialect.instant(BEGINNING), CURRENT: "TRUE"}
    missing = {each.name: each for each in patch.add if each.name in values and dialect.fold(each.name) not in live.columns}
    if not missing:
        return live
    filled: dict[str, tuple[str, str]] = {}
    for name, column in missing.items():
        filled[name] = (yield from _definition(dialect, column)), values[name]
    yield from dialect.add_filled(schema, patch.table, filled)
    return (yield from read_tables(dialect, schema, [patch.table])).get(patch.table, live)


def _definitions(dialect: Dialect, patch: TablePatch) -> Steps[dict[str, str]]:
    """Returns the definitions of a new table's columns by name."""
    key = patch.primary_key or ()
    columns = {column.name: column for column in (*patch.add, *patch.widen)}
    require_key(patch.table, key, {dialect.fold(name) for name in columns}, dialect.fold)
    parts: dict[str, str] = {}
    for column in columns.values():
        parts[column.name] = yield from _definition(dialect, column, in_key=column.name in key)
    return parts


def _definition(dialect: Dialect, column: Column, *, in_key: bool = False) -> Steps[str]:
    native = dialect.types.native_of(column)
    if column.native is not None:
        # the type came from a person or a function: only a text that the server reads as a type goes into DDL
        words = yield from dialect.refuses_type(native)
        if words is not None:
            raise Permanent(f'column "{column.name}": {native!r} is not a type {dialect.product} knows ({words})')
    return dialect.definition(column, native, in_key=in_key)


def _alter(dialect: Dialect, schema: str, patch: TablePatch, live: LiveTable) -> Steps[frozenset[str]]:
    types, key = dialect.types, {dialect.fold(name) for name in patch.primary_key or ()}
    added: dict[str, str] = {}
    widened: dict[str, tuple[LiveColumn, Column, str]] = {}
    stuck: set[str] = set()
    for column in (*patch.add, *patch.widen):
        now = live.columns.get(dialect.fold(column.name))
        if now is None:
            added[column.name] = yield from _definition(dialect, column, in_key=dialect.fold(column.name) in key)
        elif column in patch.widen and (now.kind is not column.kind or now.limits is not None):
            expression = types.widening(dialect.identifier(column.name), now.kind, column.kind, now.plain)
            if expression is None:
                stuck.add(column.name)
            else:
                widened[column.name] = now, column, expression
    # first, so that rows that cannot have the key leave the table as it is where nothing takes it back
    if patch.primary_key is not None:
        yield from _keep_key(dialect, schema, patch, live=live, added=added)
    changes = {name: dialect.add_column(definition) for name, definition in added.items()}
    by_change = {
        name: dialect.change_type(now, column, types.native_of(column), expression)
        for name, (now, column, expression) in widened.items()
    }
    conditions = {
        name: condition
        for name, (now, column, _) in widened.items()
        if (condition := types.survives_in(dialect.identifier(name), now.kind, column.kind, now.plain)) is not None
    }
    if conditions or not all(by_change.values()):
        yield from dialect.hold_writers(schema, patch.table)
    lossy = yield from _lossy(dialect, schema, patch.table, conditions)
    stuck |= lossy
    widened = {name: change for name, change in widened.items() if name not in lossy}
    changes |= {name: by_change[name] for name in widened if by_change[name]}
    drops, makes = (yield from dialect.in_the_way(schema, patch.table)) if widened else ([], [])
    if drops:
        yield Run("; ".join(drops))
    stuck |= yield from _change(dialect, schema, patch.table, changes)
    if makes:
        yield Run("; ".join(makes))
    for name, (now, column, expression) in widened.items():
        if by_change[name]:
            continue
        if not (
            yield from dialect.recast(
                schema=schema, table=patch.table, now=now, column=column, native=types.native_of(column), expression=expression
            )
        ):
            stuck.add(name)
    return frozenset(stuck)


def _lossy(dialect: Dialect, schema: str, table: str, conditions: Mapping[str, str]) -> Steps[frozenset[str]]:
    """Returns the columns with a stored value that fails its condition."""
    if not conditions:
        return frozenset()
    lost = ", ".join(f"count(CASE WHEN NOT ({condition}) THEN 1 END)" for condition in conditions.values())
    (found,) = yield Ask(f"SELECT {lost} FROM {dialect.qualified(schema, table)}", long=True)  # noqa: S608 - names are quoted
    return frozenset(name for name, count in zip(conditions, found, strict=True) if count)


def _change(dialect: Dialect, schema: str, table: str, changes: Mapping[str, str]) -> Steps[frozenset[str]]:
    """Alters a table, all columns at once or, if that is refused, one by one; returns the refused columns."""
    if not changes or (yield from _tried(dialect, dialect.alter(schema, table, changes.values()))):
        return frozenset()
    refused: set[str] = set()
    for name, change in changes.items():
        if not (yield from _tried(dialect, dialect.alter(schema, table, [change]))):
            refused.add(name)
    return frozenset(refused)


def _tried(dialect: Dialect, statement: str) -> Steps[bool]:
    """Runs a statement; returns whether the server took it, False if it refuses a column.

    If the refusal would take back the whole transaction, the error is raised.
    """
    if dialect.undo == "transaction":
        yield Run(statement)
        return True
    if not dialect.ddl_commits:
        yield Run("SAVEPOINT trial")
    try:
        yield Run(statement)
    except Exception as error:
        if dialect.trouble(error) not in OF_A_COLUMN:
            raise
        if not dialect.ddl_commits:
            yield Run("ROLLBACK TO SAVEPOINT trial")
        return False
    return True


def _keep_key(dialect: Dialect, schema: str, patch: TablePatch, live: LiveTable, added: dict[str, str]) -> Steps[None]:
    """Makes the key that is wanted; takes the columns that come with it out of `added`."""
    table, key = patch.table, patch.primary_key or ()
    require_key(table, key, {*live.columns, *map(dialect.fold, added)}, dialect.fold)
    wanted = {dialect.fold(name) for name in key}
    name = ""
    if key and not any(set(usable.columns) == wanted for usable in live.keys):
        taken = [*(yield from dialect.own_keys(schema)), *(usable.name for usable in live.keys)]
        name = own_index(schema, table, taken)
    elif not live.stale_keys(wanted):
        return
    first = [added.pop(column) for column in list(added) if dialect.fold(column) in wanted]
    try:
        yield Run(dialect.rekey(schema=schema, table=table, live=live, added=first, name=name, key=key))
    except Exception as error:
        words = _NO_KEY.get(dialect.trouble(error) or "")
        if words is None:
            raise
        raise no_key(table, key, f"{words} ({dialect.describe(error)})") from error


def ownership(dialect: Dialect, schema: str, table: str, columns: Iterable[Column]) -> list[str]:
    """Returns the statements that store the paths of new columns with them."""
    comments = [dialect.comment(schema, table, each.name, OWNER + each.owner) for each in columns if each.owner is not None]
    return [comment for comment in comments if comment]
