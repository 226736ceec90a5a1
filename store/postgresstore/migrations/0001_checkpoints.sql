-- What Pebble's store has. Binary columns that hold more than a key begin with a checksum: see seal.go.
-- IDs are bytes, not text, so that their order is the same whatever the database's collation.

CREATE TABLE IF NOT EXISTS footfall_identity (
	name  text PRIMARY KEY,
	value text NOT NULL
);

CREATE TABLE IF NOT EXISTS footfall_shards (
	shard       int    PRIMARY KEY,
	epoch       bigint NOT NULL,
	-- Drawn at random by each acquisition: an epoch that is given again after a database lost its last commits is another one.
	token       bigint NOT NULL,
	-- The member that has the shard, '' where it was released.
	owner       text   NOT NULL,
	-- The dead letters: how many are kept, their bytes, how many made room, and the position after the last one written.
	dead_kept    bigint NOT NULL DEFAULT 0,
	dead_bytes   bigint NOT NULL DEFAULT 0,
	dead_dropped bigint NOT NULL DEFAULT 0,
	floor_offset bigint NOT NULL DEFAULT 0,
	floor_index  bigint NOT NULL DEFAULT 0,
	-- The number of the last base snapshot that was begun.
	generation  bigint NOT NULL DEFAULT 0
);

CREATE TABLE IF NOT EXISTS footfall_checkpoints (
	shard int    PRIMARY KEY,
	-- Which write it was, drawn at random: tells whether a commit without an answer took place.
	write_id bigint NOT NULL,
	meta  bytea NOT NULL
);

-- Updated again and again: room is left in each page, so that a new version of a row stays beside the old one.
CREATE TABLE IF NOT EXISTS footfall_customers (
	shard int   NOT NULL,
	id    bytea NOT NULL,
	value bytea NOT NULL,
	PRIMARY KEY (shard, id)
) WITH (fillfactor = 80);

CREATE TABLE IF NOT EXISTS footfall_dead_letters (
	shard   int    NOT NULL,
	message bigint NOT NULL,
	event   bigint NOT NULL,
	body    bytea  NOT NULL,
	PRIMARY KEY (shard, message, event)
);

CREATE TABLE IF NOT EXISTS footfall_outbox (
	shard int    NOT NULL,
	seq   bigint NOT NULL,
	body  bytea  NOT NULL,
	PRIMARY KEY (shard, seq)
);

CREATE TABLE IF NOT EXISTS footfall_bases (
	shard      int    PRIMARY KEY,
	generation bigint NOT NULL,
	meta       bytea  NOT NULL
);

CREATE TABLE IF NOT EXISTS footfall_base_customers (
	shard      int    NOT NULL,
	generation bigint NOT NULL,
	id         bytea  NOT NULL,
	value      bytea  NOT NULL,
	PRIMARY KEY (shard, generation, id)
);
