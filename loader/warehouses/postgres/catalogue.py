"""What Postgres's catalogue is asked: columns, keys, other things with the names of tables, foreign keys."""

from __future__ import annotations

COLUMNS = """
SELECT c.relname::text AS name, c.relkind::text AS relkind, row_security_active(c.oid) AS guarded,
       c.relhastriggers OR c.relkind <> 'r' AS deferred,
       a.attname::text AS column, format_type(a.atttypid, a.atttypmod) AS native,
       CASE WHEN t.typtype = 'd' THEN (
           WITH RECURSIVE below AS (
               SELECT t.typbasetype AS type, t.typtypmod AS mod
               UNION ALL
               SELECT u.typbasetype, u.typtypmod FROM below JOIN pg_type u ON u.oid = below.type WHERE u.typtype = 'd'
           )
           SELECT format_type(below.type, below.mod) FROM below JOIN pg_type u ON u.oid = below.type WHERE u.typtype <> 'd'
       ) END AS base,
       CASE WHEN t.typtype <> 'b' OR t.typelem <> 0 THEN (
           WITH RECURSIVE below AS (
               SELECT t.oid AS type, a.atttypmod AS mod
               UNION ALL
               SELECT CASE u.typtype WHEN 'd' THEN u.typbasetype ELSE u.typelem END,
                      CASE u.typtype WHEN 'd' THEN u.typtypmod ELSE below.mod END
               FROM below JOIN pg_type u ON u.oid = below.type WHERE u.typtype = 'd' OR u.typcategory = 'A'
           )
           SELECT ARRAY[format_type(below.type, below.mod), u.typtype::text]
           FROM below JOIN pg_type u ON u.oid = below.type WHERE NOT (u.typtype = 'd' OR u.typcategory = 'A')
       ) END AS inside,
       CASE WHEN a.atthasdef AND a.attgenerated = '' THEN (
           SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum
       ) END AS default,
       a.attidentity <> 'a' AND a.attgenerated = '' AS writable,
       CASE WHEN a.attidentity = 'd' THEN pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname) END AS sequence,
       CASE WHEN t.typtype = 'e' THEN (SELECT array_agg(e.enumlabel::text) FROM pg_enum e WHERE e.enumtypid = t.oid) END AS labels,
       t.typreceive <> 0 AS received, a.attnotnull AS required, d.description AS comment
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = a.attnum
WHERE n.nspname = $1 AND c.relname = ANY($2::text[]) AND c.relkind IN ('r', 'p', 'f', 'v')
ORDER BY c.oid, a.attnum
"""
"""Columns of tables by schema and names; a table without columns is one row with a null column. `guarded`: rows are under a
policy for us. `deferred`: it may have constraints that are checked at COMMIT, which are triggers. `base`: the type below a domain.
`inside`: the type below domains and arrays, and whether it is composite (`c`) or a range (`r`). `received`: the type has a binary
form."""

KEYS = """
SELECT c.relname::text AS table, ic.relname::text AS name, i.indisprimary AS primary, con.oid IS NOT NULL AS constraint,
       (SELECT array_agg(a.attname::text ORDER BY k.n)
          FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
         WHERE k.n <= i.indnkeyatts) AS columns
FROM pg_index i
JOIN pg_class ic ON ic.oid = i.indexrelid
JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_constraint con ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid AND con.contype IN ('p', 'u')
WHERE n.nspname = $1 AND c.relname = ANY($2::text[])
  AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY ic.relname
"""
"""Unique indexes of tables that ON CONFLICT can use."""

GUARDS = """
SELECT c.relname::text AS table, ic.relname::text AS name
FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND starts_with(ic.relname::text, $2)
"""
"""Indexes in a schema whose names begin so."""

NOT_TABLES = """
SELECT c.relname::text AS name,
       CASE c.relkind WHEN 'm' THEN 'a materialized view' WHEN 'S' THEN 'a sequence' WHEN 'c' THEN 'a type' ELSE 'an index' END AS thing
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = ANY($2::text[]) AND c.relkind NOT IN ('r', 'p', 'f', 'v')
"""
"""What else has the names of tables; they share their names."""

REFERENCES = """
SELECT c.relname::text AS child, p.relname::text AS parent
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class p ON p.oid = k.confrelid
JOIN pg_namespace n ON n.oid = c.relnamespace AND n.oid = p.relnamespace
WHERE k.contype = 'f' AND n.nspname = $1 AND c.relname = ANY($2::text[]) AND p.relname = ANY($2::text[]) AND c.oid <> p.oid
"""
"""Which of some tables refer to which others of them by foreign keys."""

ADVISORY_LOCKS = "SELECT pg_advisory_xact_lock(hashtextextended(name, 7306)) FROM unnest($1::text[]) AS t(name)"
"""Held to the end of the transaction; the seed keeps clear of locks other programs take on the same text."""

OWN_KEYS = """
SELECT relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND starts_with(relname::text, $2)
"""

BACKENDS = """
SELECT pid, application_name FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid() AND application_name LIKE 'penstock/%'
"""
"""Our other backends."""

END = "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid"
