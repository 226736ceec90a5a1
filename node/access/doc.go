// Package access decides who may call a node. Its main type is [Access], which stands at both of
// the node's doors, gRPC and HTTP.
//
//	connection ─► limits ─► TLS: a certificate of a node? ─► call: the role that its row in the table asks for ─► service
//	                            │ not of the trust domain         │ no token, wrong role, forged mark, too many
//	                            ▼                                 ▼
//	                         refused                           refused, before its body is read
//
// What it promises:
//
//  1. A call is answered only where the table names its role and the caller has it. What the
//     table does not name is refused, and nothing is open but what is named so.
//  2. Only a node that shows a certificate of the trust domain may pass on the calls of others.
//  3. A refusal is counted by its reason, and written down at a bounded rate, never with the
//     token.
//  4. Tokens and certificates are read again when their files change. A file that cannot be used
//     changes nothing but a metric and the log.
//  5. What it keeps of callers is bounded, however many there are.
package access
