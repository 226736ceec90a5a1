package grafana

// consumerInsights is for who sells: customers, not machines.
func consumerInsights() board {
	return board{
		uid: "footfall-consumers", title: "Footfall / Consumer insights", from: "now-24h",
		about:     "Who the customers are, what they are expected to do, what they buy.",
		variables: []variable{byModel},
		rows:      []row{consumersGlance(), segmentsRow(), expectedRow(), salesRow(), doingRow()},
	}
}

func consumersGlance() row {
	return open("At a glance",
		figure("Customers", "Customers of whom anything was ever seen.", unitShort,
			q(`sum(footfall_shard_customers)`, "customers")).wide(4),
		figure("Active, 28 days", "Share of the customers with an event in the last 28 days, as of now or, in a replay, as of its day.", unitShare,
			q(`sum(footfall_recency_customers{days=~"1|2-7|8-28"}) / clamp_min(sum(footfall_recency_customers), 1)`, "active")).wide(4).upTo(1),
		figure("At risk", "Share of the customers of whom churn_risk says more than 0.7: likely not to buy within 28 days.", unitShare,
			q(`sum(footfall_score_customers{model="churn_risk",bin=~"0.8|0.9|1.0"}) / clamp_min(sum(footfall_score_customers{model="churn_risk"}), 1)`, "at risk")).wide(4).upTo(1),
		figure("Expected this week", "Customers of whom purchase_prediction says more than 0.5: likely to buy within seven days.", unitShort,
			q(`sum(footfall_score_customers{model="purchase_prediction",bin=~"0.6|0.7|0.8|0.9|1.0"})`, "expected")).wide(4),
		figure("Purchases", "Purchases an hour, refunds not taken off.", unitHourly,
			q(`sum(rate(footfall_events_applied_total{kind="purchase"}[$__rate_interval])) * 3600`, "purchases")).wide(4).digits(0),
		figure("Sales", "What purchases cost an hour, in the currency of the cluster, discounts taken off, refunds not.", unitHourly,
			q(`sum(rate(footfall_sales_total[$__rate_interval])) * 3600`, "sales")).wide(4).digits(0),
	)
}

func segmentsRow() row {
	return open("Segments",
		ranks("Customers, by segment", "How many customers are in each segment now. The model customer_segmentation tells the segments.", unitShort,
			q(`sort_desc(sum by (segment) (footfall_segment_customers))`, "{{segment}}")),
		series("Shares of the segments", "How the customers are divided over time. A segment that shrinks while another grows is customers who move.", unitShort,
			q(`sum by (segment) (footfall_segment_customers)`, "{{segment}}")).shares(),
		series("Since the last event", "Customers by days since anything was heard of them. What moves to the right is leaving.", unitShort,
			q(`sum by (days) (footfall_recency_customers)`, "{{days}} days")).stacked().
			colored(map[string]string{"1 days": blue, "2-7 days": sky, "8-28 days": green, "29-84 days": orange, "85- days": vermilion}),
	)
}

func expectedRow() row {
	return open("What is expected of them",
		bins("Purchase within a week", "How many customers purchase_prediction gives which probability, in tenths.", unitShort, "bin",
			q(`sum by (bin) (footfall_score_customers{model="purchase_prediction"})`, "customers")).wide(8).without("Time").column("Value", "customers", ""),
		bins("No purchase within four weeks", "How many customers churn_risk gives which probability, in tenths. The right end is who is about to be lost.", unitShort, "bin",
			q(`sum by (bin) (footfall_score_customers{model="churn_risk"})`, "customers")).wide(8).without("Time").column("Value", "customers", ""),
		spread("Scores over time", "Customers by what the models chosen say of them, in tenths: a band that moves is a mood that changes, or another version.", "none",
			q(`sum by (bin) (footfall_score_customers{model=~"$model"})`, "{{bin}}")),
	)
}

func salesRow() row {
	return open("What they buy",
		ranks("Sales, by department", "What purchases cost in the time shown, in the currency of the cluster, of the fifteen departments with most.", unitShort,
			q(`topk(15, sum by (department) (increase(footfall_sales_total[$__range])))`, "{{department}}")).tall(10),
		series("Sales over time, by department", "What purchases cost an hour, of the ten departments with most.", unitHourly,
			q(`topk(10, sum by (department) (rate(footfall_sales_total[$__rate_interval])) * 3600)`, "{{department}}")).wide(16).tall(10),
	)
}

func doingRow() row {
	return open("What they do",
		series("Shopping", "Purchases and refunds an hour: what is bought, and what comes back.", unitHourly,
			q(`sum by (kind) (rate(footfall_events_applied_total{kind=~"purchase|refund"}[$__rate_interval])) * 3600`, "{{kind}}")).
			colored(map[string]string{"purchase": blue, "refund": orange}),
		series("Looking", "Page views, and what went into carts and out of them, an hour.", unitHourly,
			q(`sum by (kind) (rate(footfall_events_applied_total{kind=~"page_view|cart_add|cart_remove"}[$__rate_interval])) * 3600`, "{{kind}}")).
			colored(map[string]string{"page_view": grey, "cart_add": blue, "cart_remove": orange}),
		series("Answering", "Campaigns that reached customers, and coupons that they redeemed, an hour. Coupons follow campaigns, with days between.", unitHourly,
			q(`sum by (kind) (rate(footfall_events_applied_total{kind=~"campaign_received|coupon_redeemed"}[$__rate_interval])) * 3600`, "{{kind}}")).
			colored(map[string]string{"campaign_received": purple, "coupon_redeemed": green}),
	)
}
