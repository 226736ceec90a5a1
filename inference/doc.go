// Package inference scores customers with models. Its main types are [Device], an actor that
// owns one device, gathers the rows of many shards into batches, runs every serving model
// over each batch and answers each request; and [Pool], which owns several of them:
//
//	Pool ──ticket──► the least loaded Device ──batch──► Session, pinned there
//	  ▲                 │ it failed: another one, within the deadline
//	  └─────────────────┘
//
// A model is a versioned TensorFlow SavedModel with its contract beside it:
//
//	models/<name>/<version>/saved_model.pb
//	                        variables/
//	                        model.yaml
//
// model.yaml is a [Contract]: what the model is fed and in which order, what it answers, how
// its training data were spread, how good it was. It is read strictly, and every fault is
// reported with its key; testdata/model.yaml shows and explains all keys. A [Registry] lists
// what a directory holds. The highest version that loads serves; a version that does not is
// reported as failed and hinders no other.
//
// What a device promises:
//
//  1. [Device.Score] never blocks: a full queue answers false, and nothing else is refused
//     that way while the device is open.
//  2. Every request that was taken is answered exactly once, also when the device closes.
//  3. Rows waiting and rows in flight are bounded; so are the series of its metrics.
//  4. A value that reaches a reply is finite and of the kind that its contract states. One
//     model's fault, or one request's rows, spoil no other model and no other request.
//  5. All values of a reply come from the versions that it names, for all of its rows.
//  6. A run that hangs costs the device, not the requests: [DeviceError].
//
// What a pool promises stands at [Pool].
//
// The package itself links no TensorFlow: a [Runner] brings the sessions, and package
// inference/tensorflow is the one that does.
package inference
