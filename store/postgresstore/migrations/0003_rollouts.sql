-- What is decided about the versions of each model, in the first database. A change names the generation that it replaces.

CREATE TABLE IF NOT EXISTS footfall_rollouts (
	model      text   PRIMARY KEY,
	generation bigint NOT NULL,
	-- Which write it was, drawn at random: tells whether a commit without an answer took place.
	write_id   bigint NOT NULL,
	body       bytea  NOT NULL
);

-- Programs that know nothing of it can work with the rest.
INSERT INTO footfall_identity (name, value) VALUES ('tables usable from version', '2') ON CONFLICT (name) DO NOTHING;
