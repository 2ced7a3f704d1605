"""The tables of pg_catalog. Source: PostgreSQL documentation, "System Catalogs"."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ha.core.values import Value
from ha.wire.postgres import oids as t
from ha.wire.postgres.catalog import definitions as d
from ha.wire.postgres.catalog import snapshot as s
from ha.wire.postgres.catalog.state import DATABASE_BASE, Catalogue
from ha.wire.postgres.catalog.vtab import Row, TableSpec

HEAP, BTREE = 2, 403


def spec(
    name: str, columns: str, rows: Callable[[Catalogue], Iterable[dict[str, Value]]] | None = None
) -> TableSpec:
    """``columns``: ``name type`` separated by commas. Rows are dicts; what they leave out is the
    zero of its type."""
    parsed = tuple(_column(c) for c in columns.replace("\n", " ").split(","))
    zeros = tuple(_zero(kind) for _, kind in parsed)
    names = tuple(n for n, _ in parsed)

    def listed(state: Catalogue) -> list[Row]:
        if rows is None:
            return []
        return [
            tuple(row.get(n, z) for n, z in zip(names, zeros, strict=True)) for row in rows(state)
        ]

    return TableSpec(name, parsed, listed)


def _column(text: str) -> tuple[str, str]:
    name, _, kind = text.strip().partition(" ")
    return name, kind.strip() or "text"


def _zero(kind: str) -> Value:
    if kind in ("oid", "int2", "int4", "int8", "bool", "xid", "float4"):
        return 0
    return "" if kind in ("char", "name") else None


# --- what there is -------------------------------------------------------------------------


def _namespaces(state: Catalogue) -> Iterable[dict[str, Value]]:
    for oid, name in state.namespaces():
        yield {"oid": oid, "nspname": name, "nspowner": s.OWNER}


def _referencing(state: Catalogue) -> set[int]:
    """Tables on either side of a foreign key: to PostgreSQL they have triggers."""
    out: set[int] = set()
    for r in state.snapshot.relations:
        for c in r.constraints:
            target = state.snapshot.by_name.get(c.target.lower()) if c.kind == "f" else None
            if c.kind == "f":
                out.add(r.oid)
            if target is not None:
                out.add(target.oid)
    return out


def _classes(state: Catalogue) -> Iterable[dict[str, Value]]:
    referencing = _referencing(state)
    for r in state.snapshot.relations:
        yield {
            "oid": r.oid,
            "relname": r.name,
            "relnamespace": r.namespace,
            "reltype": 0,
            "relowner": s.OWNER,
            "relam": HEAP if r.kind == "r" else 0,
            "reltuples": -1,
            "relhasindex": int(bool(r.indexes)),
            "relpersistence": "t" if r.namespace == s.TEMPORARY else "p",
            "relkind": r.kind,
            "relnatts": len(r.columns),
            "relchecks": sum(c.kind == "c" for c in r.constraints),
            "relhasrules": int(r.kind == "v"),
            "relhastriggers": int(r.oid in referencing or bool(r.triggers)),
            "relispopulated": 1,
            "relreplident": "d",
            "relfilenode": r.oid,
        }
        for i in r.indexes:
            yield {
                "oid": i.oid,
                "relname": i.name,
                "relnamespace": r.namespace,
                "relowner": s.OWNER,
                "relam": BTREE,
                "reltuples": -1,
                "relpersistence": "t" if r.namespace == s.TEMPORARY else "p",
                "relkind": "i",
                "relnatts": len(i.columns),
                "relispopulated": 1,
                "relreplident": "n",
                "relfilenode": i.oid,
            }
    for name, oid in state.system_tables():
        yield {
            "oid": oid,
            "relname": name.partition(".")[2],
            "relnamespace": s.PG_CATALOG if name[:2] == "pg" else s.INFORMATION_SCHEMA,
            "relowner": s.OWNER,
            "relam": HEAP,
            "reltuples": -1,
            "relpersistence": "p",
            "relkind": "r" if name[:2] == "pg" else "v",
            "relispopulated": 1,
            "relreplident": "n",
        }


def _attributes(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r in state.snapshot.relations:
        for c in r.columns:
            yield _attribute(r.oid, c.number, c.name, c.type, c.modifier) | {
                "attnotnull": int(c.not_null),
                "atthasdef": int(c.default is not None or bool(c.generated)),
                "attidentity": "d" if c.identity else "",
                "attgenerated": c.generated,
            }
        for i in r.indexes:
            for number, (attribute, _, _) in enumerate(i.columns, 1):
                column = next((c for c in r.columns if c.number == attribute), None)
                yield _attribute(
                    i.oid,
                    number,
                    column.name if column else "expr",
                    column.type if column else t.TEXT,
                    column.modifier if column else -1,
                )
    for name, oid in state.system_tables():
        for number, (column_name, kind) in enumerate(state.system_columns(name), 1):
            yield _attribute(oid, number, column_name, kind, -1)


def _attribute(
    relation: int, number: int, name: str, kind: t.PgType, modifier: int
) -> dict[str, Value]:
    return {
        "attrelid": relation,
        "attname": name,
        "atttypid": kind.oid,
        "attstattarget": -1,
        "attlen": kind.size,
        "attnum": number,
        "attndims": int(kind.element is not None),
        "attcacheoff": -1,
        "atttypmod": modifier,
        "attbyval": int(0 < kind.size <= 8),
        "attstorage": "p" if kind.size > 0 else "x",
        "attalign": "i",
        "attislocal": 1,
        "attcollation": 100 if kind in t.TEXTS else 0,
        "attcompression": "",
    }


def _defaults(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r in state.snapshot.relations:
        for c in r.columns:
            text = d.generation(r, c) if c.generated else c.default
            if text is not None:
                yield {
                    "oid": r.oid ^ c.number,
                    "adrelid": r.oid,
                    "adnum": c.number,
                    "adbin": text,
                    "adsrc": text,
                }


def _types(_state: Catalogue) -> Iterable[dict[str, Value]]:
    for kind in t.ALL:
        array = kind.element is not None and kind.name.startswith("_")
        yield {
            "oid": kind.oid,
            "typname": kind.name,
            "typnamespace": s.PG_CATALOG,
            "typowner": s.OWNER,
            "typlen": kind.size,
            "typbyval": int(0 < kind.size <= 8),
            "typtype": "p" if kind.category in "P" else "b",
            "typcategory": kind.category,
            "typispreferred": int(kind in (t.TEXT, t.FLOAT8, t.BOOL, t.TIMESTAMPTZ, t.OID)),
            "typisdefined": 1,
            "typdelim": ",",
            "typelem": kind.element.oid if kind.element else 0,
            "typarray": kind.array_oid,
            "typinput": "array_in" if array else f"{kind.name}in",
            "typoutput": "array_out" if array else f"{kind.name}out",
            "typreceive": "array_recv" if array else f"{kind.name}recv",
            "typsend": "array_send" if array else f"{kind.name}send",
            "typsubscript": "array_subscript_handler" if array else "-",
            "typalign": "i",
            "typstorage": "p" if kind.size > 0 else "x",
            "typtypmod": -1,
            "typcollation": 100 if kind in t.TEXTS else 0,
        }


def _indexes(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r in state.snapshot.relations:
        for i in r.indexes:
            count = len(i.columns)
            yield {
                "indexrelid": i.oid,
                "indrelid": r.oid,
                "indnatts": count,
                "indnkeyatts": count,
                "indisunique": int(i.unique),
                "indisprimary": int(i.primary),
                "indimmediate": 1,
                "indisvalid": 1,
                "indisready": 1,
                "indislive": 1,
                "indkey": " ".join(str(n) for n, _, _ in i.columns),
                "indcollation": " ".join("0" for _ in i.columns),
                "indclass": " ".join("0" for _ in i.columns),
                "indoption": " ".join("3" if desc else "0" for _, desc, _ in i.columns),
                "indexprs": ", ".join(i.expressions) or None,
                "indpred": i.partial or None,
            }


def _constraints(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r in state.snapshot.relations:
        for c in r.constraints:
            target = state.snapshot.by_name.get(c.target.lower()) if c.target else None
            target_columns = d.target_columns(target, c)
            foreign = c.kind == "f"
            index = d.key_index(target, target_columns) if foreign else c.index
            yield {
                "oid": c.oid,
                "conname": c.name,
                "connamespace": r.namespace,
                "contype": c.kind,
                "condeferrable": int(c.deferred),
                "condeferred": int(c.deferred),
                "convalidated": 1,
                "conenforced": 1,
                "conrelid": r.oid,
                "conindid": index,
                "confrelid": target.oid if target else 0,
                "confupdtype": c.on_update if foreign else " ",
                "confdeltype": c.on_delete if foreign else " ",
                "confmatchtype": "s" if foreign else " ",
                "conislocal": 1,
                "connoinherit": 1,
                "conkey": _array(c.columns) if c.columns else None,
                "confkey": _array(target_columns) if foreign else None,
                "conbin": c.text or None,
            }


def _array(numbers: Iterable[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


def _databases(state: Catalogue) -> Iterable[dict[str, Value]]:
    for i, name in enumerate(state.identity.databases()):
        yield {
            "oid": DATABASE_BASE + i,
            "datname": name,
            "datdba": s.OWNER,
            "encoding": 6,
            "datlocprovider": "c",
            "datallowconn": 1,
            "datconnlimit": -1,
            "dattablespace": 1663,
            "datcollate": "C",
            "datctype": "C.UTF-8",
        }


def _roles(state: Catalogue) -> Iterable[dict[str, Value]]:
    yield {
        "oid": s.OWNER,
        "rolname": state.identity.user,
        "rolinherit": 1,
        "rolcreatedb": 1,
        "rolcanlogin": 1,
        "rolconnlimit": -1,
        "rolpassword": "********",
    }


def _users(state: Catalogue) -> Iterable[dict[str, Value]]:
    yield {"usename": state.identity.user, "usesysid": s.OWNER, "usecreatedb": 1}


def _triggers(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r in state.snapshot.relations:
        for trigger in r.triggers:
            yield {
                "oid": trigger.oid,
                "tgrelid": r.oid,
                "tgname": trigger.name,
                "tgenabled": "O",
                "tgtype": d.trigger_type(trigger.sql),
            }


def _settings(state: Catalogue) -> Iterable[dict[str, Value]]:
    settings = state.identity.settings
    for name in sorted(settings.values):
        value = settings.values[name]
        yield {
            "name": state.setting_name(name),
            "setting": value,
            "category": "",
            "short_desc": "",
            "context": "user",
            "vartype": "string",
            "source": "default",
            "boot_val": settings.defaults.get(name, value),
            "reset_val": settings.defaults.get(name, value),
        }


def _tables(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r in state.snapshot.relations:
        if r.kind == "r":
            yield {
                "schemaname": state.namespace_name(r.namespace),
                "tablename": r.name,
                "tableowner": state.identity.user,
                "hasindexes": int(bool(r.indexes)),
                "hastriggers": int(bool(r.triggers)),
            }


def _views(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r in state.snapshot.relations:
        if r.kind == "v":
            yield {
                "schemaname": state.namespace_name(r.namespace),
                "viewname": r.name,
                "viewowner": state.identity.user,
                "definition": d.view_definition(r),
            }


def _index_list(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r in state.snapshot.relations:
        for i in r.indexes:
            yield {
                "schemaname": state.namespace_name(r.namespace),
                "tablename": r.name,
                "indexname": i.name,
                "indexdef": d.index_definition(r, i),
            }


def _activity(state: Catalogue) -> Iterable[dict[str, Value]]:
    identity = state.identity
    yield {
        "datid": DATABASE_BASE,
        "datname": identity.database(),
        "pid": identity.process_id,
        "usesysid": s.OWNER,
        "usename": identity.user,
        "application_name": identity.settings.values["application_name"],
        "state": "active",
        "backend_type": "client backend",
    }


def _user_tables(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r in state.snapshot.relations:
        if r.kind == "r":
            yield {
                "relid": r.oid,
                "schemaname": state.namespace_name(r.namespace),
                "relname": r.name,
            }


def _access_methods(_state: Catalogue) -> Iterable[dict[str, Value]]:
    yield {"oid": HEAP, "amname": "heap", "amtype": "t", "amhandler": "heap_tableam_handler"}
    yield {"oid": BTREE, "amname": "btree", "amtype": "i", "amhandler": "bthandler"}


def _collations(_state: Catalogue) -> Iterable[dict[str, Value]]:
    for oid, name in ((100, "default"), (950, "C"), (951, "POSIX")):
        yield {
            "oid": oid,
            "collname": name,
            "collnamespace": s.PG_CATALOG,
            "collowner": s.OWNER,
            "collprovider": "d" if oid == 100 else "c",
            "collisdeterministic": 1,
            "collencoding": -1,
        }


def _tablespaces(_state: Catalogue) -> Iterable[dict[str, Value]]:
    yield {"oid": 1663, "spcname": "pg_default", "spcowner": s.OWNER}


def _languages(_state: Catalogue) -> Iterable[dict[str, Value]]:
    yield {"oid": 12, "lanname": "internal", "lanowner": s.OWNER}
    yield {"oid": 14, "lanname": "sql", "lanowner": s.OWNER, "lanpltrusted": 1}


TABLES: tuple[TableSpec, ...] = (
    spec("pg_namespace", "oid oid, nspname name, nspowner oid, nspacl text[]", _namespaces),
    spec(
        "pg_class",
        "oid oid, relname name, relnamespace oid, reltype oid, reloftype oid, relowner oid,"
        " relam oid, relfilenode oid, reltablespace oid, relpages int4, reltuples float4,"
        " relallvisible int4, reltoastrelid oid, relhasindex bool, relisshared bool,"
        " relpersistence char, relkind char, relnatts int2, relchecks int2, relhasrules bool,"
        " relhastriggers bool, relhassubclass bool, relrowsecurity bool,"
        " relforcerowsecurity bool, relispopulated bool, relreplident char,"
        " relispartition bool, relrewrite oid, relfrozenxid xid, relminmxid xid,"
        " relacl text[], reloptions text[], relpartbound text",
        _classes,
    ),
    spec(
        "pg_attribute",
        "attrelid oid, attname name, atttypid oid, attstattarget int4, attlen int2, attnum int2,"
        " attndims int4, attcacheoff int4, atttypmod int4, attbyval bool, attstorage char,"
        " attalign char, attnotnull bool, atthasdef bool, atthasmissing bool, attidentity char,"
        " attgenerated char, attisdropped bool, attislocal bool, attinhcount int4,"
        " attcollation oid, attcompression char, attacl text[], attoptions text[],"
        " attfdwoptions text[], attmissingval text",
        _attributes,
    ),
    spec("pg_attrdef", "oid oid, adrelid oid, adnum int2, adbin text, adsrc text", _defaults),
    spec(
        "pg_type",
        "oid oid, typname name, typnamespace oid, typowner oid, typlen int2, typbyval bool,"
        " typtype char, typcategory char, typispreferred bool, typisdefined bool, typdelim char,"
        " typrelid oid, typelem oid, typarray oid, typinput text, typoutput text,"
        " typreceive text, typsend text, typmodin text, typmodout text, typanalyze text,"
        " typsubscript text, typalign char, typstorage char, typnotnull bool, typbasetype oid,"
        " typtypmod int4, typndims int4, typcollation oid, typdefaultbin text, typdefault text,"
        " typacl text[]",
        _types,
    ),
    spec(
        "pg_index",
        "indexrelid oid, indrelid oid, indnatts int2, indnkeyatts int2, indisunique bool,"
        " indnullsnotdistinct bool, indisprimary bool, indisexclusion bool, indimmediate bool,"
        " indisclustered bool, indisvalid bool, indcheckxmin bool, indisready bool,"
        " indislive bool, indisreplident bool, indkey int2vector, indcollation oidvector,"
        " indclass oidvector, indoption int2vector, indexprs text, indpred text",
        _indexes,
    ),
    spec(
        "pg_constraint",
        "oid oid, conname name, connamespace oid, contype char, condeferrable bool,"
        " condeferred bool, conenforced bool, convalidated bool, conrelid oid, contypid oid,"
        " conindid oid, conparentid oid, confrelid oid, confupdtype char, confdeltype char,"
        " confmatchtype char, conislocal bool, coninhcount int4, connoinherit bool,"
        " conkey int2[], confkey int2[], conpfeqop oid[], conppeqop oid[], conffeqop oid[],"
        " confdelsetcols int2[], conexclop oid[], conbin text",
        _constraints,
    ),
    spec(
        "pg_database",
        "oid oid, datname name, datdba oid, encoding int4, datlocprovider char,"
        " datistemplate bool, datallowconn bool, datconnlimit int4, datfrozenxid xid,"
        " datminmxid xid, dattablespace oid, datcollate text, datctype text, daticulocale text,"
        " datlocale text, daticurules text, datcollversion text, datacl text[]",
        _databases,
    ),
    spec(
        "pg_roles",
        "oid oid, rolname name, rolsuper bool, rolinherit bool, rolcreaterole bool,"
        " rolcreatedb bool, rolcanlogin bool, rolreplication bool, rolconnlimit int4,"
        " rolpassword text, rolvaliduntil timestamptz, rolbypassrls bool, rolconfig text[]",
        _roles,
    ),
    spec(
        "pg_authid",
        "oid oid, rolname name, rolsuper bool, rolinherit bool, rolcreaterole bool,"
        " rolcreatedb bool, rolcanlogin bool, rolreplication bool, rolbypassrls bool,"
        " rolconnlimit int4, rolpassword text, rolvaliduntil timestamptz",
        _roles,
    ),
    spec(
        "pg_user",
        "usename name, usesysid oid, usecreatedb bool, usesuper bool, userepl bool,"
        " usebypassrls bool, passwd text, valuntil timestamptz, useconfig text[]",
        _users,
    ),
    spec(
        "pg_trigger",
        "oid oid, tgrelid oid, tgparentid oid, tgname name, tgfoid oid, tgtype int2,"
        " tgenabled char, tgisinternal bool, tgconstrrelid oid, tgconstrindid oid,"
        " tgconstraint oid, tgdeferrable bool, tginitdeferred bool, tgnargs int2,"
        " tgattr int2vector, tgargs text, tgqual text, tgoldtable name, tgnewtable name",
        _triggers,
    ),
    spec(
        "pg_settings",
        "name text, setting text, unit text, category text, short_desc text, extra_desc text,"
        " context text, vartype text, source text, min_val text, max_val text,"
        " enumvals text[], boot_val text, reset_val text, sourcefile text, sourceline int4,"
        " pending_restart bool",
        _settings,
    ),
    spec(
        "pg_tables",
        "schemaname name, tablename name, tableowner name, tablespace name, hasindexes bool,"
        " hasrules bool, hastriggers bool, rowsecurity bool",
        _tables,
    ),
    spec("pg_views", "schemaname name, viewname name, viewowner name, definition text", _views),
    spec(
        "pg_indexes",
        "schemaname name, tablename name, indexname name, tablespace name, indexdef text",
        _index_list,
    ),
    spec(
        "pg_stat_activity",
        "datid oid, datname name, pid int4, leader_pid int4, usesysid oid, usename name,"
        " application_name text, client_addr text, client_hostname text, client_port int4,"
        " backend_start timestamptz, xact_start timestamptz, query_start timestamptz,"
        " state_change timestamptz, wait_event_type text, wait_event text, state text,"
        " backend_xid xid, backend_xmin xid, query_id int8, query text, backend_type text",
        _activity,
    ),
    spec(
        "pg_stat_user_tables",
        "relid oid, schemaname name, relname name, seq_scan int8, n_live_tup int8,"
        " n_dead_tup int8, last_vacuum timestamptz, last_analyze timestamptz",
        _user_tables,
    ),
    spec("pg_am", "oid oid, amname name, amhandler text, amtype char", _access_methods),
    spec(
        "pg_collation",
        "oid oid, collname name, collnamespace oid, collowner oid, collprovider char,"
        " collisdeterministic bool, collencoding int4, collcollate text, collctype text,"
        " colliculocale text, colllocale text, collicurules text, collversion text",
        _collations,
    ),
    spec(
        "pg_tablespace",
        "oid oid, spcname name, spcowner oid, spcacl text[], spcoptions text[]",
        _tablespaces,
    ),
    spec(
        "pg_language",
        "oid oid, lanname name, lanowner oid, lanispl bool, lanpltrusted bool,"
        " lanplcallfoid oid, laninline oid, lanvalidator oid, lanacl text[]",
        _languages,
    ),
    # What SQLite has none of: the tables are there, and empty.
    spec("pg_aggregate", "aggfnoid oid, aggkind char, aggnumdirectargs int2"),
    spec(
        "pg_auth_members",
        "oid oid, roleid oid, member oid, grantor oid, admin_option bool, inherit_option bool,"
        " set_option bool",
    ),
    spec("pg_cast", "oid oid, castsource oid, casttarget oid, castfunc oid, castcontext char,"
 " castmethod char"),
    spec("pg_conversion", "oid oid, conname name, connamespace oid, conowner oid,"
 " conforencoding int4, contoencoding int4, conproc oid, condefault bool"),
    spec("pg_cursors", "name text, statement text, is_holdable bool, is_binary bool"),
    spec("pg_db_role_setting", "setdatabase oid, setrole oid, setconfig text[]"),
    spec("pg_default_acl", "oid oid, defaclrole oid, defaclnamespace oid, defaclobjtype char,"
 " defaclacl text[]"),
    spec(
        "pg_depend",
        "classid oid, objid oid, objsubid int4, refclassid oid, refobjid oid, refobjsubid int4,"
        " deptype char",
    ),
    spec("pg_description", "objoid oid, classoid oid, objsubid int4, description text"),
    spec("pg_enum", "oid oid, enumtypid oid, enumsortorder float4, enumlabel name"),
    spec("pg_event_trigger", "oid oid, evtname name, evtevent name, evtowner oid, evtenabled char,"
 " evtfoid oid, evttags text[]"),
    spec(
        "pg_extension",
        "oid oid, extname name, extowner oid, extnamespace oid, extrelocatable bool,"
        " extversion text, extconfig oid[], extcondition text[]",
    ),
    spec("pg_foreign_data_wrapper", "oid oid, fdwname name, fdwowner oid, fdwoptions text[]"),
    spec(
        "pg_foreign_server",
        "oid oid, srvname name, srvowner oid, srvfdw oid, srvtype text, srvversion text,"
        " srvacl text[], srvoptions text[]",
    ),
    spec("pg_foreign_table", "ftrelid oid, ftserver oid, ftoptions text[]"),
    spec(
        "pg_inherits", "inhrelid oid, inhparent oid, inhseqno int4, inhdetachpending bool"
    ),
    spec(
        "pg_locks",
        "locktype text, database oid, relation oid, pid int4, mode text, granted bool,"
        " transactionid xid, virtualxid text, virtualtransaction text, waitstart timestamptz",
    ),
    spec(
        "pg_matviews",
        "schemaname name, matviewname name, matviewowner name, tablespace name, hasindexes bool,"
        " ispopulated bool, definition text",
    ),
    spec("pg_opclass", "oid oid, opcmethod oid, opcname name, opcnamespace oid, opcowner oid,"
          " opcfamily oid, opcintype oid, opcdefault bool, opckeytype oid"),
    spec("pg_operator", "oid oid, oprname name, oprnamespace oid, oprleft oid, oprright oid,"
          " oprresult oid, oprcode oid,"
 " oprkind char, oprowner oid"),
    spec("pg_opfamily", "oid oid, opfmethod oid, opfname name, opfnamespace oid"),
    spec("pg_partitioned_table", "partrelid oid, partstrat char, partnatts int2, partdefid oid,"
          " partattrs int2vector, partclass oidvector, partexprs text"),
    spec("pg_policy", "oid oid, polname name, polrelid oid, polcmd char, polpermissive bool,"
          " polroles oid[], polqual text, polwithcheck text"),
    spec("pg_policies", "schemaname name, tablename name, policyname name, permissive text,"
          " roles text[], cmd text, qual text, with_check text"),
    spec("pg_prepared_statements", "name text, statement text, prepare_time timestamptz,"
          " parameter_types text[], from_sql bool"),
    spec("pg_prepared_xacts", "transaction xid, gid text, prepared timestamptz, owner name,"
          " database name"),
    spec(
        "pg_proc",
        "oid oid, proname name, pronamespace oid, proowner oid, prolang oid, procost float4,"
        " prorows float4, provariadic oid, prosupport text, prokind char, prosecdef bool,"
        " proleakproof bool, proisstrict bool, proretset bool, provolatile char,"
        " proparallel char, pronargs int2, pronargdefaults int2, prorettype oid,"
        " proargtypes oidvector, proallargtypes oid[], proargmodes text[], proargnames text[],"
        " proargdefaults text, prosrc text, probin text, prosqlbody text, proconfig text[],"
        " proacl text[]",
    ),
    spec("pg_publication", "oid oid, pubname name, pubowner oid, puballtables bool,"
          " pubinsert bool, pubupdate bool, pubdelete bool, pubtruncate bool, pubviaroot bool"),
    spec("pg_publication_namespace", "oid oid, pnpubid oid, pnnspid oid"),
    spec("pg_publication_rel", "oid oid, prpubid oid, prrelid oid, prqual text,"
          " prattrs int2vector"),
    spec("pg_publication_tables", "pubname name, schemaname name, tablename name"),
    spec("pg_range", "rngtypid oid, rngsubtype oid, rngmultitypid oid, rngcollation oid,"
          " rngsubopc oid, rngcanonical text, rngsubdiff text"),
    spec("pg_rewrite", "oid oid, rulename name, ev_class oid, ev_type char, ev_enabled char,"
          " is_instead bool, ev_qual text, ev_action text"),
    spec("pg_rules", "schemaname name, tablename name, rulename name, definition text"),
    spec("pg_seclabel", "objoid oid, classoid oid, objsubid int4, provider text, label text"),
    spec("pg_sequence", "seqrelid oid, seqtypid oid, seqstart int8, seqincrement int8,"
          " seqmax int8, seqmin int8, seqcache int8, seqcycle bool"),
    spec("pg_sequences", "schemaname name, sequencename name, sequenceowner name,"
          " data_type text, start_value int8, min_value int8, max_value int8,"
          " increment_by int8, cycle bool, cache_size int8, last_value int8"),
    spec("pg_shdepend", "dbid oid, classid oid, objid oid, objsubid int4, refclassid oid,"
          " refobjid oid, deptype char"),
    spec("pg_shdescription", "objoid oid, classoid oid, description text"),
    spec("pg_statistic_ext", "oid oid, stxrelid oid, stxname name, stxnamespace oid,"
          " stxowner oid, stxstattarget int4, stxkeys int2vector, stxkind text[]"),
    spec("pg_stat_all_tables", "relid oid, schemaname name, relname name, n_live_tup int8"),
    spec("pg_stat_database", "datid oid, datname name, numbackends int4, xact_commit int8"),
    spec("pg_subscription", "oid oid, subdbid oid, subname name, subowner oid, subenabled bool,"
 " subpublications text[], subconninfo text, subslotname name, subbinary bool,"
 " substream char, subsynccommit text"),
    spec("pg_timezone_names", "name text, abbrev text, utc_offset text, is_dst bool"),
    spec("pg_ts_config", "oid oid, cfgname name, cfgnamespace oid, cfgowner oid"),
    spec("pg_user_mapping", "oid oid, umuser oid, umserver oid, umoptions text[]"),
)  # fmt: skip
