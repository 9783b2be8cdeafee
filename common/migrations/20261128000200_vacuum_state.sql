-- migrate:up

-- What keeps PostgreSQL from removing old versions of rows: one row. A transaction that stays open makes the small tables
-- that change all the time grow, and each read of them slower. SECURITY DEFINER, because a service's role may not see the
-- sessions of others. Autovacuum's own sessions do not count.
CREATE FUNCTION vacuum_state(
    OUT oldest_snapshot_s double precision, OUT oldest_snapshot text, OUT autovacuum boolean, OUT transactions_age bigint
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(extract(epoch FROM clock_timestamp() - oldest.since), 0), oldest.session,
      current_setting('autovacuum')::boolean,
      (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database())
    FROM (SELECT) AS one LEFT JOIN LATERAL (
      SELECT xact_start AS since, format('session %s of %s (%s)', pid, usename, coalesce(nullif(application_name, ''), '?')) AS session
      FROM pg_stat_activity
      WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
        AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
      UNION ALL
      SELECT prepared, format('prepared transaction %s of %s', gid, owner)
      FROM pg_prepared_xacts WHERE database = current_database()
      ORDER BY since LIMIT 1
    ) AS oldest ON true
$$;

-- migrate:down

DROP FUNCTION vacuum_state;
