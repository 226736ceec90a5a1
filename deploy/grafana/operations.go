package grafana

// colours of what has the same name in several panels.
var (
	memberColors = map[string]string{"active": blue, "joining": sky, "draining": orange}
	whereColors  = map[string]string{"owner": blue, "forwarded": orange}
	pairColors   = map[string]string{"p50": blue, "p99": orange}
)

// quantiles are two queries of a histogram: what is usual, and what one in a hundred meets.
func quantiles(metric, selector string) []query {
	at := func(p string) string {
		return `histogram_quantile(` + p + `, sum by (le) (rate(` + metric + `_bucket{` + selector + `}[$__rate_interval])))`
	}
	return []query{q(at("0.5"), "p50"), q(at("0.99"), "p99")}
}

// operations is for who runs the cluster.
func operations() board {
	return board{
		uid: "footfall-operations", title: "Footfall / Operations", from: "now-1h",
		about:     "Does the cluster do its work: nodes, shards, events, queries, the log, the store.",
		variables: []variable{byNode, byShard},
		rows: []row{
			atAGlance(),
			clusterRow(),
			shardsRow(),
			eventsRow(),
			queriesRow(),
			rabbitRow(),
			storeRow(),
			nodesRow(),
			everyShard(),
		},
	}
}

func atAGlance() row {
	return open("At a glance",
		figure("Nodes ready", "Nodes that can do all their work, as their /readyz says. Normal: all of them.", "none",
			q(`sum(footfall_ready)`, "ready")).atLeast(1).runbook("FootfallNodeDown", "FootfallNodeNotReady"),
		figure("Shards without a node", "Shards that nobody serves: their queries wait. Normal: 0, but for the seconds after a crash.", "none",
			q(`footfall:shards:count - footfall:shards_active:count`, "without")).anyIsWrong().runbook("FootfallShardUnowned"),
		figure("Events", "Events that were folded into customers, a second, over all nodes.", unitEvents,
			q(`sum(rate(footfall_events_applied_total{instance=~"$node"}[$__rate_interval]))`, "applied")).digits(0),
		figure("Lag", "Messages of the log that are not folded yet. Normal: near 0; more after a restart or in a replay, and falling.", unitShort,
			q(`sum(footfall_shard_lag_messages{shard=~"$shard"})`, "lag")).limits(1000, 100000).runbook("FootfallLagGrowing"),
		figure("Oldest checkpoint", "The longest that a shard has gone without a checkpoint. A shard without events needs none: look at those with.", unitSeconds,
			q(`max(time() - max by (shard) (footfall_shard_last_checkpoint_timestamp_seconds{shard=~"$shard"}))`, "age")).runbook("FootfallCheckpointOld"),
		figure("Queries, p99", "One in a hundred queries of a customer took longer, whatever the node and wherever it was answered. Objective: 100 ms.", unitSeconds,
			q(`histogram_quantile(0.99, sum by (le) (rate(footfall_query_seconds_bucket{instance=~"$node"}[$__rate_interval])))`, "p99")).
			limits(0.1, 0.5).runbook("FootfallQueriesSlow", "FootfallQueriesSlowing"),
		figure("Dead letters, a day", "Events of the log, or without a shard, that could not be folded in 24 hours. Normal: 0.", unitShort,
			q(`sum(increase(footfall_shard_dead_letters_total[1d])) + (sum(increase(footfall_bridge_rejected_total[1d])) or vector(0))`, "dead")).
			anyIsOdd().digits(0).runbook("FootfallDeadLetters"),
		figure("Alerts", "Alerts that fire now; below stands which. Normal: none.", "none",
			q(`count(ALERTS{alertstate="firing",alertname=~"Footfall.*"}) or vector(0)`, "firing")).anyIsWrong(),
		timeline("What fires", "Alerts over time, by name; none where all is well. A name opens its runbook.",
			[]state{{"0", "none", well}, {"1", "info", sky}, {"2", "warning", watch}, {"3", "critical", wrong}},
			// The highest severity of each; without any, one line that says so.
			q(`max by (alertname) (
  3 * (ALERTS{alertstate="firing",alertname=~"Footfall.*",severity="critical"})
  or 2 * (ALERTS{alertstate="firing",alertname=~"Footfall.*",severity="warning"})
  or (ALERTS{alertstate="firing",alertname=~"Footfall.*",severity="info"})
  or label_replace(vector(0), "alertname", "all is well", "", ""))`, "{{alertname}}")).
			wide(24).tall(6).opens("Runbook", "${runbooks}/${__field.labels.alertname}.md"),
	)
}

func clusterRow() row {
	return open("Cluster",
		series("Members", "Members by state, as the node that sees most of them sees them. Normal: a straight line of active ones; draining while a node leaves in order.",
			"none", q(`max by (state) (footfall_cluster_members{instance=~"$node"})`, "{{state}}")).
			stacked().colored(memberColors).runbook("FootfallMemberFlapping"),
		series("Shards by node", "Shards that each node serves. Normal: even to within one, and together as many as there are.", "none",
			q(`sum by (instance) (footfall_shard_owned{instance=~"$node",shard=~"$shard"})`, "{{instance}}")).stacked().runbook("FootfallShardUnowned"),
		timeline("Ready", "Whether each node can do all of its work. Not ready: its /readyz says why.", upOrOut("ready", "not ready"),
			q(`footfall_ready{instance=~"$node"}`, "{{instance}}")).runbook("FootfallNodeNotReady"),
		series("Hand-offs", "Shards that came to a node. Normal: none, but where nodes come, go or are restarted.", "none",
			q(`sum by (instance) (increase(footfall_handoff_seconds_count{instance=~"$node"}[$__rate_interval]))`, "{{instance}}")).asBars().digits(0),
		figure("Hand-off, p99", "From acquiring a shard until it was active, in the time shown: what one in a hundred took longer. Normal: below 3 s.", unitSeconds,
			q(`histogram_quantile(0.99, sum by (le) (increase(footfall_handoff_seconds_bucket{instance=~"$node"}[$__range])))`, "p99")).
			wide(4).tall(8).limits(3, 30),
		series("Trouble with ownership", "Shards that another had taken, tries that found it taken, and leases that ended before they were renewed. Normal: none but in a hand-off.", "none",
			q(`sum(increase(footfall_cluster_drops_total{instance=~"$node"}[$__rate_interval]))`, "taken by another"),
			q(`sum(increase(footfall_cluster_refusals_total{instance=~"$node"}[$__rate_interval]))`, "tried in vain"),
			q(`sum(increase(footfall_cluster_lease_lapses_total{instance=~"$node"}[$__rate_interval]))`, "lease lapsed")).
			wide(12).asBars().runbook("FootfallLeaseLapsed", "FootfallShardOwnedTwice"),
	)
}

func shardsRow() row {
	return open("Shards and customers",
		series("Lag, by shard", "The ten shards with most messages that are not folded yet. Normal: near 0.", unitShort,
			q(`topk(10, sum by (shard) (footfall_shard_lag_messages{shard=~"$shard"}))`, "shard {{shard}}")).runbook("FootfallLagGrowing"),
		ranks("Hottest shards", "The share of a core that the ten busiest shards fold with. Normal: much alike; one far above the others has a hot customer.", unitShare,
			q(`topk(10, sum by (shard) (rate(footfall_shard_apply_seconds_total{shard=~"$shard"}[$__rate_interval])))`, "shard {{shard}}")).limits(0.5, 0.9),
		series("Age of checkpoints", "The ten shards that have gone longest without a checkpoint. Normal: checkpoint.interval; more where a shard has no events.", unitSeconds,
			q(`topk(10, time() - max by (shard) (footfall_shard_last_checkpoint_timestamp_seconds{shard=~"$shard"}))`, "shard {{shard}}")).
			runbook("FootfallCheckpointOld"),
		series("Customers", "Customers that are in memory, and that wait in the store. Many of the latter make shards wait for the store: memory.budget.", unitShort,
			q(`sum by (state) (footfall_shard_customers{instance=~"$node",shard=~"$shard"})`, "{{state}}")).
			stacked().colored(map[string]string{"resident": blue, "passivated": orange}),
		series("Memory of customers", "What the resident customers of each node take, as far as memory.budget lets them.", unitBytes,
			q(`sum by (instance) (footfall_shard_resident_bytes{instance=~"$node",shard=~"$shard"})`, "{{instance}}")).stacked(),
		series("Headroom of the log", "Messages between the trimmed end of the log and the checkpoint, of the ten shards with least. At none a shard stops with log_gap; it grows with the log.",
			unitShort, q(`bottomk(10, footfall_log_headroom_messages{shard=~"$shard"})`, "shard {{shard}}")).runbook("FootfallLogHeadroomLow", "FootfallShardFailed"),
	)
}

func eventsRow() row {
	return open("Events",
		series("Applied, by kind", "Events that were folded into customers.", unitEvents,
			q(`sum by (kind) (rate(footfall_events_applied_total{instance=~"$node"}[$__rate_interval]))`, "{{kind}}")).stacked(),
		series("Until an event is safe", "From the arrival of a request until its events are in the log for good. Normal: milliseconds; it follows the disk, or the broker.", unitSeconds,
			quantiles("footfall_append_seconds", `instance=~"$node"`)...).colored(pairColors).runbook("FootfallBrokerBlocked", "FootfallDiskRefusesWrites"),
		series("Refused at the door", "Events that broke a rule. *Data quality* says which.", unitEvents,
			q(`sum by (instance) (rate(footfall_events_rejected_total{instance=~"$node"}[$__rate_interval]))`, "{{instance}}")).
			stacked().runbook("FootfallRejectedRatioHigh"),
	)
}

func queriesRow() row {
	return open("Queries",
		series("Queries", "Queries of customers, answered by the node that got them or passed on to the owner. With N nodes and any node asked, 1 in N stays.", unitCalls,
			q(`sum by (where) (rate(footfall_query_seconds_count{instance=~"$node"}[$__rate_interval]))`, "{{where}}")).stacked().colored(whereColors),
		series("Time of a query", "What half of them, and one in a hundred, take at most. Objective: 99% within 100 ms.", unitSeconds,
			quantiles("footfall_query_seconds", `instance=~"$node"`)...).limits(0.1, 0.5).colored(pairColors),
		series("Allowance of slow queries", "How many times faster than allowed the 1% of slow queries is used up, over an hour and six. Above 1 it does not last; alerts come at 6 and 14.4.", "none",
			q(`footfall:queries_slow:ratio_rate1h / 0.01`, "1 h"), q(`footfall:queries_slow:ratio_rate6h / 0.01`, "6 h")).
			limits(1, 6).runbook("FootfallQueriesSlow", "FootfallQueriesSlowing"),
	)
}

func rabbitRow() row {
	return folded("RabbitMQ",
		timeline("Connected", "Whether all connections of a node to the broker are up.", upOrOut("connected", "away"),
			q(`min by (instance) (footfall_rabbitmq_connected{instance=~"$node"})`, "{{instance}}")).runbook("FootfallBrokerAway"),
		timeline("Takes messages", "Whether the broker takes what a node publishes. It does not while it has an alarm of memory or disk.",
			[]state{{"0", "takes", well}, {"1", "blocked", wrong}},
			q(`max by (instance) (footfall_rabbitmq_blocked{instance=~"$node"})`, "{{instance}}")).runbook("FootfallBrokerBlocked"),
		series("Published and read", "Messages that the broker has confirmed to nodes, and that readers of shards got.", unitMessage,
			q(`sum(rate(footfall_rabbitmq_published_total{instance=~"$node"}[$__rate_interval]))`, "published"),
			q(`sum(rate(footfall_rabbitmq_deliveries_total{instance=~"$node"}[$__rate_interval]))`, "read")),
		series("Until confirmed", "From sending a message to the broker's confirm. Normal: milliseconds.", unitSeconds,
			quantiles("footfall_rabbitmq_confirm_seconds", `instance=~"$node"`)...).colored(pairColors),
		series("Not confirmed", "Messages that the broker refused, could not route, or whose fate nobody knows since the connection was lost. Normal: none.", "none",
			q(`sum(increase(footfall_rabbitmq_nacked_total{instance=~"$node"}[$__rate_interval]))`, "refused"),
			q(`sum(increase(footfall_rabbitmq_returned_total{instance=~"$node"}[$__rate_interval]))`, "not routed"),
			q(`sum(increase(footfall_rabbitmq_lost_total{instance=~"$node"}[$__rate_interval]))`, "lost")).asBars().runbook("FootfallPublishFailing"),
		series("Events without a shard", "Events that publishers sent without a shard, and that were taken to theirs.", unitEvents,
			q(`sum(rate(footfall_bridge_events_total{instance=~"$node"}[$__rate_interval]))`, "taken")).runbook("FootfallBridgeFailing"),
	)
}

func storeRow() row {
	return folded("PostgreSQL",
		timeline("Answers", "Whether the last call of each node to each database was answered.", upOrOut("answers", "away"),
			q(`footfall_store_up{instance=~"$node"}`, "{{instance}}, database {{database}}")).runbook("FootfallStoreAway"),
		series("Connections to the database", "Connections of all nodes that are busy, and the most there may be.", "none",
			q(`sum by (pool) (footfall_store_connections{instance=~"$node",state="busy"})`, "{{pool}}: busy"),
			q(`sum by (pool) (footfall_store_connections_limit{instance=~"$node"})`, "{{pool}}: at most")).runbook("FootfallStorePoolExhausted"),
		series("Time of a call", "Each try of a call to the database.", unitSeconds, quantiles("footfall_store_call_seconds", `instance=~"$node"`)...).colored(pairColors),
		series("Customers written", "Customers in the checkpoints that were committed. One database takes some ten thousand a second.", "suffix: customers/s",
			q(`sum by (instance) (rate(footfall_store_customers_total{instance=~"$node"}[$__rate_interval]))`, "{{instance}}")).stacked(),
		series("Trouble", "Tries that failed by reason, and calls that were given up. Normal: none; conflicts are tried again.", "none",
			q(`sum by (reason) (increase(footfall_store_errors_total{instance=~"$node"}[$__rate_interval]))`, "{{reason}}"),
			q(`sum(increase(footfall_store_failures_total{instance=~"$node"}[$__rate_interval]))`, "given up")).asBars().wide(16).runbook("FootfallStoreCallsFailing"),
	)
}

func nodesRow() row {
	const node = `{job=~".*footfall.*",instance=~"$node"}`
	return folded("Nodes",
		series("Processor", "Cores that each node uses, of those that it may use.", unitCores, q(`rate(process_cpu_seconds_total`+node+`[$__rate_interval])`, "{{instance}}")),
		series("Memory", "Memory of the process, TensorFlow's included. Customers take memory.budget of it.", unitBytes,
			q(`process_resident_memory_bytes`+node, "{{instance}}")).runbook("FootfallMemoryNearLimit"),
		series("Pauses", "The longest pause of garbage collection of late. Normal: below a millisecond.", unitSeconds,
			q(`go_gc_duration_seconds{quantile=~"1|1.0",job=~".*footfall.*",instance=~"$node"}`, "{{instance}}")),
		series("Gossip", "How badly each member keeps up with its gossip: 0 is well; more where its processor is busy or the network loses packets.", "none",
			q(`footfall_gossip_health_score{instance=~"$node"}`, "{{instance}}")).limits(2, 4).runbook("FootfallMemberFlapping"),
		series("Connections", "Open connections of callers and of other nodes, by listener.", "none", q(`sum by (listener) (footfall_connections{instance=~"$node"})`, "{{listener}}")).stacked(),
		series("Callers refused", "Calls and handshakes that were refused, by reason, and those of callers that made too many. Normal: none.", "suffix: /s",
			q(`sum by (reason) (rate(footfall_auth_refused_total{instance=~"$node"}[$__rate_interval]))`, "{{reason}}"),
			q(`sum(rate(footfall_requests_limited_total{instance=~"$node"}[$__rate_interval]))`, "too many")).stacked().runbook("FootfallCallersRefused"),
	)
}

func everyShard() row {
	return folded("Every shard",
		rows("Shards", "Each shard, by whom it is served, under which epoch, with how many customers, and what comes in. A column sorts by a click.", "none",
			q(`max by (shard, instance) (footfall_shard_epoch{instance=~"$node",shard=~"$shard"})`, "epoch"),
			q(`sum by (shard, instance) (footfall_shard_customers{instance=~"$node",shard=~"$shard"})`, "customers"),
			q(`sum by (shard, instance) (footfall_shard_lag_messages{instance=~"$node",shard=~"$shard"})`, "lag"),
			q(`sum by (shard, instance) (rate(footfall_shard_events_total{instance=~"$node",shard=~"$shard"}[$__rate_interval]))`, "events"),
			q(`sum by (shard, instance) (rate(footfall_shard_apply_seconds_total{instance=~"$node",shard=~"$shard"}[$__rate_interval]))`, "busy")).
			transform("merge", map[string]any{}).without("Time").
			column("shard", "Shard", "").column("instance", "Node", "").column("Value #A", "Epoch", "none").column("Value #B", "Customers", unitShort).
			column("Value #C", "Lag", unitShort).column("Value #D", "Events", unitEvents).column("Value #E", "Share of a core", unitShare),
	)
}
