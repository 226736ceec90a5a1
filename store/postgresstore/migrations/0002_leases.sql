-- Leases of members. A shard is held while the lease of the incarnation that acquired it lasts.

CREATE TABLE IF NOT EXISTS footfall_leases (
	member      text        PRIMARY KEY,
	incarnation text        NOT NULL,
	expires     timestamptz NOT NULL
);

ALTER TABLE footfall_shards ADD COLUMN IF NOT EXISTS incarnation text NOT NULL DEFAULT '';
