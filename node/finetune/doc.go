// Package finetune trains models on, beside the traffic that they serve. Its main type is
// [Service], the gRPC service that takes rows with outcomes; a [job] does the work:
//
//	rows ──► part of them judges ──► measured ──► epochs of steps, on a copy ──► measured again
//	                                                                              │
//	                        refused: no better, or not finite ◄──────────────────┤
//	                                                                              ▼
//	                        published: the next version, whole or not at all ◄── written, loaded, run
//
// What it promises:
//
//  1. What serves is not touched: steps are taken on a session of their own.
//  2. Serving goes first: at most half of one core is used, less while rows wait for scores.
//  3. A version is published whole or not at all, and only where it is better on rows that it did
//     not see, loaded from its files, with the same answers.
//  4. Memory is bounded by [Service].MaxBytes, whatever a caller sends; one fine-tuning runs at a
//     time.
//
// The rows that judge are the latest ones. Rows whose outcome looks into their days are left out,
// since they know what they are asked.
package finetune
