// Package tensorflow runs models with the TensorFlow C library. Its main type is [Runner],
// which loads a SavedModel onto one device; only programs that import this package link the
// library.
//
// Loading goes in these steps, each with its own error:
//
//  1. saved_model.pb is read, and the contract's signature found in it: tensors are named by
//     the signature's keys, never by position, and types and shapes must be those of the
//     contract.
//  2. What neither runs nor the reading of variables need is taken out. Every operation, those of functions included, is given the device to run on; [Trace]
//     tells of a run that it was so. The result goes to a temporary folder beside links to the rest, since the library loads
//     folders only.
//  3. The library loads that, reading the variables; beside versions that serve, by a thread
//     that gives way to all others.
//
// The library logs to standard error, and reads TF_CPP_MIN_LOG_LEVEL when it is loaded, before
// any Go code runs: whoever starts the process sets it ("2": errors only).
//
// Tensors are C memory, which Go's collector does not see and hence would not hurry to free:
// each run frees its own.
package tensorflow
