package grafana

// modelBehaviour is for who trains models, and who runs them.
func modelBehaviour() board {
	return board{
		uid: "footfall-models", title: "Footfall / Model behaviour", from: "now-3h",
		about:     "What models do: how much, how fast, on which devices, which versions, and how good they are.",
		variables: []variable{byNode, byModel, byVersion},
		rows:      []row{modelsGlance(), scoringRow(), timesRow(), rolloutRow(), devicesRow(), goodnessRow(), protocolRow()},
	}
}

const rowsOf = `footfall_inference_rows_total{instance=~"$node",model=~"$model",version=~"$version"}`

func modelsGlance() row {
	return open("At a glance",
		figure("Rows", "Rows scored a second, over all models: each model scores each changed customer.", unitRows,
			q(`sum(rate(`+rowsOf+`[$__rate_interval]))`, "rows")).wide(4).digits(0),
		figure("A run, p99", "One in a hundred runs of a model over a batch took longer.", unitSeconds,
			q(`histogram_quantile(0.99, sum by (le) (rate(footfall_inference_seconds_bucket{instance=~"$node",model=~"$model"}[$__rate_interval])))`, "p99")).wide(4).limits(0.1, 1),
		figure("Waiting for scores", "Share of the customers whose newest state is not scored yet. Normal: near 0; higher for a while after a tick.", unitShare,
			q(`footfall:shard_unscored:ratio`, "waiting")).wide(4).limits(0.05, 0.1).runbook("FootfallScoringLag"),
		figure("Devices out", "Devices that score nothing at the moment. Normal: 0.", "none",
			q(`sum(1 - footfall_inference_device_up{instance=~"$node"})`, "out")).wide(4).anyIsWrong().runbook("FootfallInferenceDeviceOut"),
		figure("Errors, an hour", "Requests that a model gave no usable values for. Normal: 0.", "none",
			q(`sum(increase(footfall_inference_errors_total{instance=~"$node",model=~"$model",version=~"$version"}[1h]))`, "errors")).
			wide(4).digits(0).anyIsWrong().runbook("FootfallInferenceErrors"),
		figure("Versions", "Versions that serve, over all models. More than models while one is rolled out.", "none",
			q(`count(count by (model, version) (footfall_inference_rows_total{instance=~"$node",model=~"$model"}))`, "versions")).wide(4),
	)
}

func scoringRow() row {
	return open("How much",
		series("Rows, by model and version", "Rows scored. Models score the same customers, so that their lines lie together.", unitRows,
			q(`sum by (model, version) (rate(`+rowsOf+`[$__rate_interval]))`, "{{model}} {{version}}")),
		series("Rows, by device", "Rows scored by each device of each node. Even where devices are alike.", unitRows,
			q(`sum by (instance, device) (rate(`+rowsOf+`[$__rate_interval]))`, "{{instance}} {{device}}")).stacked(),
		series("Waiting for scores, by node", "Customers with a newer state than their scores, by node. Folding never waits for them.", unitShort,
			q(`sum by (instance) (footfall_shard_unscored_customers{instance=~"$node"})`, "{{instance}}")).stacked().runbook("FootfallScoringLag"),
	)
}

func timesRow() row {
	return open("How fast",
		series("Time of a run", "What one in a hundred runs over a batch takes longer than, by model.", unitSeconds,
			q(`histogram_quantile(0.99, sum by (model, le) (rate(footfall_inference_seconds_bucket{instance=~"$node",model=~"$model"}[$__rate_interval])))`, "{{model}} p99")),
		spread("Rows of a batch", "How large batches are: one line is one size. Large ones score more a second, small ones answer sooner.", unitShort,
			q(`sum by (le) (increase(footfall_inference_batch_rows_bucket{instance=~"$node",model=~"$model"}[$__rate_interval]))`, "{{le}}")),
		series("Queue", "Rows that wait for a batch, by device. Where it stays full, rows are not taken and offered again.", unitShort,
			q(`sum by (instance, device) (footfall_inference_queue_rows{instance=~"$node"})`, "{{instance}} {{device}}"),
			q(`sum(rate(footfall_inference_refused_rows_total{instance=~"$node"}[$__rate_interval]))`, "not taken, a second")).runbook("FootfallScoringLag"),
	)
}

func rolloutRow() row {
	// A measure of the version that is tried; 0 and no version where none is.
	trial := func(measure string) string {
		return `max by (model, version) (footfall_model_trial{instance=~"$node",model=~"$model",measure="` + measure + `"})
  or label_replace(label_replace(vector(0), "model", "no", "", ""), "version", "trial", "", "")`
	}
	return open("Roll-out",
		series("Who is scored by what", "Share of the customers that each version scores, as champion, canary or shadow. A shadow's scores are compared, and never shown.", unitShare,
			q(`max by (model, version, part) (footfall_model_rollout_share{instance=~"$node",model=~"$model",version=~"$version"})`, "{{model}} {{version}} {{part}}")).upTo(1),
		series("Tried version: how far from the champion", "Mean absolute difference between what a tried version and the champion say of the same customers.", "none",
			q(trial("absolute_difference"), "{{model}} {{version}}")).digits(3),
		series("Taken back", "Versions that were taken out, by reason, and loads that failed. Normal: none; asked is a person.", "none",
			q(`sum by (model, reason) (increase(footfall_model_rollbacks_total{instance=~"$node",model=~"$model"}[$__rate_interval])) or vector(0)`, "{{model}} {{reason}}"),
			q(`sum by (model) (increase(footfall_model_load_failures_total{instance=~"$node",model=~"$model"}[$__rate_interval])) or vector(0)`, "{{model}} not loaded")).
			asBars().runbook("FootfallRolloutRolledBack", "FootfallModelLoadFailing"),
	)
}

func devicesRow() row {
	return open("Devices",
		timeline("In service", "Whether each device scores. Other members are devices of a node, too, under their names.", upOrOut("in service", "out"),
			q(`footfall_inference_device_up{instance=~"$node"}`, "{{instance}} {{device}}")).runbook("FootfallInferenceDeviceOut"),
		series("Taken out", "Times that a device was taken out of service: its runs failed, hung, or it could not load a version. Normal: none.", "none",
			q(`sum by (device, reason) (increase(footfall_inference_device_failures_total{instance=~"$node"}[$__rate_interval]))`, "{{device}} {{reason}}")).
			asBars().runbook("FootfallInferenceDeviceOut"),
		series("Rows that went elsewhere", "Rows that a device failed and another one was given, and rows that other members scored.", unitRows,
			q(`sum(rate(footfall_inference_retried_rows_total{instance=~"$node"}[$__rate_interval]))`, "failed first"),
			q(`sum(rate(footfall_inference_remote_rows_total{instance=~"$node"}[$__rate_interval])) or vector(0)`, "by another member")),
	)
}

func goodnessRow() row {
	return open("How good they are",
		rows("Evaluation", "What each version's model.yaml says of it, on rows that it was not trained on. Higher is better but for log-loss and ECE.", "none",
			q(`label_join(max by (model, version, measure) (footfall_model_quality{model=~"$model",version=~"$version",measure=~"auc|average_precision|log_loss|ece|base_rate"}), "name", " ", "model", "version")`, "value")).
			wide(16).tall(8).digits(3).
			transform("groupingToMatrix", map[string]any{"columnField": "measure", "rowField": "name", "valueField": "Value"}).
			column(`name\measure`, "Model", ""),
		series("Scores above one half", "Share of the customers of whom each model says more than 0.5. It moves slowly; a step after a new version is that version.", unitShare,
			q(`sum by (model) (footfall_score_customers{instance=~"$node",model=~"$model",bin=~"0.6|0.7|0.8|0.9|1.0"})
  / sum by (model) (footfall_score_customers{instance=~"$node",model=~"$model"})`, "{{model}}")).upTo(1),
	)
}

func protocolRow() row {
	return folded("Asked by other programs",
		series("Calls", "Calls of the Open Inference Protocol, by what became of them.", unitCalls,
			q(`sum by (call, code) (rate(footfall_oip_requests_total{instance=~"$node"}[$__rate_interval]))`, "{{call}} {{code}}")).wide(12),
		series("Time of an infer call", "What one in a hundred takes longer than, its encoding included.", unitSeconds,
			q(`histogram_quantile(0.99, sum by (transport, le) (rate(footfall_oip_infer_seconds_bucket{instance=~"$node"}[$__rate_interval])))`, "{{transport}} p99")).wide(12),
	)
}
