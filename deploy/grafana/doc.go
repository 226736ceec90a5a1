// Package grafana makes Footfall's dashboards: [Dashboards] are their JSON, with the types of Grafana's own foundation SDK. The command in
// generate/ writes them into dashboards/, which is checked in, and from where provisioning/ has Grafana load them.
//
// What it promises of each dashboard:
//
//   - It is what the code says: a test compares the checked-in JSON with it.
//   - Every panel says what it shows and what is normal, has a unit, and asks for series that nodes have. A test evaluates every query, and
//     that of every variable, against a cluster under load: each returns data.
//   - Colour is never all that tells a state: thresholds are blue, orange and vermilion, which people with any kind of colour vision tell
//     apart, and states are words.
//   - Node, shard, model and version can be chosen, and are kept on the way from one dashboard to another.
package grafana
