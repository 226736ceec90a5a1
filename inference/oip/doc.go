// Package oip speaks the Open Inference Protocol, version 2, from both sides. [Server] answers
// any of its clients, by gRPC and by HTTP, from the models of this process; [Client] has rows
// scored by any of its servers, another node or somebody else's.
//
//	gRPC ──► Server ──────────────┐
//	HTTP ──► Handler ──► decode ──┴► bind to the contract ──► Backend ──► encode
//
// Tensors come from the model's contract: inputs "features" [-1, 10] and "sequence"
// [-1, 10, 5] of FP32, one output of the contract's name, FP32 where it is a probability and
// INT32 where it is the id of a segment. Over HTTP tensors are JSON, flat or nested, or
// bytes behind the JSON (extension "binary_tensor_data"); over gRPC the typed contents or raw ones.
// An answer has the form of its question.
//
// What a server promises:
//
//  1. Every tensor is held against the contract before a row of it is scored; an error names
//     the field and says what was expected.
//  2. All values of an answer come from the version that it names.
//  3. Rows and bytes of a request are bounded, and whoever comes when all that may be is being
//     scored is told so at once.
package oip
