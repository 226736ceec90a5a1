package postgresstore

const crashURLKey = "POSTGRESSTORE_TEST_CRASH_URL"

func checkpointUntilKilled() {}
