package grafana

var byFeature = variable{name: "feature", label: "Feature", about: "whose bins are compared", query: `label_values(footfall_model_input_share{model=~"$model"}, feature)`, one: true}

// dataQuality is for who sends events, and for who trusts them.
func dataQuality() board {
	return board{
		uid: "footfall-data-quality", title: "Footfall / Data quality", from: "now-6h",
		about:     "Are the events right: complete, in time, once, and like those that the models were trained on.",
		variables: []variable{byNode, byShard, byModel, byFeature},
		rows:      []row{qualityGlance(), feedsRow(), refusedRow(), driftRow()},
	}
}

func qualityGlance() row {
	return open("At a glance",
		figure("Refused", "Share of the events sent over HTTP or gRPC that break a rule. Normal: 0; publishers are told each.", unitShare,
			q(`footfall:events_rejected:ratio_rate5m`, "refused")).wide(4).limits(0.01, 0.05).runbook("FootfallRejectedRatioHigh"),
		figure("Too late", "Share of purchases and refunds of days that are not kept any more: they count in lifetime totals only.", unitShare,
			q(`footfall:events_too_late:ratio_rate5m`, "too late")).wide(4).limits(0.001, 0.01).runbook("FootfallTooLateEvents"),
		figure("Duplicates", "Share of the events that had been there before, and were dropped. Publishers that send again after a fault make some.", unitShare,
			q(`sum(rate(footfall_duplicate_events_total[5m])) / clamp_min(sum(rate(footfall_duplicate_events_total[5m])) + footfall:events_applied:rate5m, 1e-9)`, "twice")).
			wide(4).limits(0.05, 0.5),
		figure("Dead letters, a day", "Events of the log, or without a shard, that could not be folded in 24 hours. Normal: 0.", unitShort,
			q(`sum(increase(footfall_shard_dead_letters_total[1d])) + (sum(increase(footfall_bridge_rejected_total[1d])) or vector(0))`, "dead")).
			wide(4).anyIsOdd().digits(0).runbook("FootfallDeadLetters"),
		figure("Since the last purchase", "How long ago a purchase was folded last.", unitSeconds,
			q(`time() - max(footfall_events_last_applied_timestamp_seconds{kind="purchase"})`, "ago")).wide(4).limits(1800, 7200).runbook("FootfallNoFeed", "FootfallFeedMissing"),
		figure("Largest drift", "The highest population stability index of any feature of any model, over a day. 0.1: moved; 0.25: another population.", "none",
			q(`max(footfall:model_input:psi1d{model=~"$model"})`, "psi")).wide(4).digits(2).limits(0.1, 0.25).runbook("FootfallInputDrift"),
	)
}

func feedsRow() row {
	return open("Feeds",
		series("Events by kind", "Events that were folded. A kind that breaks off is a feed that is missing.", unitEvents,
			q(`sum by (kind) (rate(footfall_events_applied_total{instance=~"$node"}[$__rate_interval]))`, "{{kind}}")).wide(12).runbook("FootfallNoFeed", "FootfallFeedMissing"),
		ranks("Since the last event", "How long ago an event of each kind was folded last. What is normal depends on the kind: purchases seconds, campaigns weeks.", unitSeconds,
			q(`sort_desc(time() - max by (kind) (footfall_events_last_applied_timestamp_seconds{instance=~"$node"}))`, "{{kind}}")).wide(6),
		ranks("Behind the clock", "How far the newest event of each kind lies behind now. In a replay of history that is as long ago as the history.", unitSeconds,
			q(`sort_desc(time() - max by (kind) (footfall_events_newest_timestamp_seconds{instance=~"$node"}))`, "{{kind}}")).wide(6),
	)
}

func refusedRow() row {
	return open("Refused, late, duplicate, dead",
		series("Refused, by field", "Events that were refused at the door, by the field that broke a rule.", unitEvents,
			q(`sum by (reason) (rate(footfall_events_rejected_total{instance=~"$node"}[$__rate_interval]))`, "{{reason}}")).
			stacked().wide(12).runbook("FootfallRejectedRatioHigh"),
		series("Late, by days", "Events of a day that had ended, by how many days ago. They go into their own day; those of days that are not kept any more are too late.", unitEvents,
			q(`sum by (days) (rate(footfall_late_events_total{instance=~"$node"}[$__rate_interval]))`, "{{days}} days"),
			q(`sum(rate(footfall_shard_too_late_events_total{shard=~"$shard"}[$__rate_interval]))`, "too late")).wide(12).runbook("FootfallTooLateEvents"),
		series("Duplicates, by node", "Events that had been there before, and were dropped: after a publisher has sent again.", unitEvents,
			q(`sum by (instance) (rate(footfall_duplicate_events_total{instance=~"$node"}[$__rate_interval]))`, "{{instance}}")).stacked(),
		series("Dead letters, by shard", "Events of the log that could not be folded, of the five shards with most. Normal: none.", "none",
			q(`topk(5, sum by (shard) (increase(footfall_shard_dead_letters_total{shard=~"$shard"}[$__rate_interval])))`, "shard {{shard}}")).
			asBars().runbook("FootfallDeadLetters"),
		series("Dead letters without a shard", "Events and whole messages without a shard that could not be taken to one, by reason. Normal: none.", "none",
			q(`sum by (reason) (increase(footfall_bridge_rejected_total{instance=~"$node"}[$__rate_interval]))`, "{{reason}}")).asBars().runbook("FootfallDeadLetters"),
	)
}

func driftRow() row {
	return open("Drift of what models are fed",
		ranks("Drift, over a day", "Population stability index of each feature against the training rows. Below 0.1: alike; above 0.25: another population.", "none",
			q(`sort_desc(max by (feature) (footfall:model_input:psi1d{model=~"$model"}))`, "{{feature}}")).digits(2).tall(10).limits(0.1, 0.25).runbook("FootfallInputDrift"),
		series("Drift, over an hour", "The same over an hour: mostly of customers who have just done something, so that it is higher by day. For changes, not for alerts.", "none",
			q(`max by (feature) (footfall:model_input:psi1h{model=~"$model"})`, "{{feature}}")).tall(10).limits(0.1, 0.25).digits(2),
		bins("Bins of $feature", "Share of values in each bin of the feature, now and in training. The bins are tenths of the training rows where these allow it.", unitShare, "bin",
			q(`avg by (bin) (footfall:model_input:share1d{model=~"$model",feature="$feature"})`, "now"),
			q(`avg by (bin) (footfall:model_input_expected:share{model=~"$model",feature="$feature"})`, "training")).wide(8).tall(10).
			transform("joinByField", map[string]any{"byField": "bin", "mode": "outer"}).without("Time", "Time 1", "Time 2").
			column("Value #A", "now", "").column("Value #B", "training", ""),
	)
}
