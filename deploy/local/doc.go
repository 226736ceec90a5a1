// Package local starts servers of the real kind ([Broker] is RabbitMQ's, [Postgres] PostgreSQL's) as children of this process:
// for tests, and for targets of the Makefile that a person tries Footfall with.
//
// What it promises of each:
//
//   - It shares nothing with a server that the machine may run itself: its data, logs, ports and node name are its own, and it
//     listens on 127.0.0.1 only.
//   - Once a start returns, the server answers. A start that fails says why, with the end of the server's log.
//   - A server that is killed and started again has the same data and the same ports.
//   - After a stop none of its processes is left, nor after this process has died, even by kill -9.
//
// The servers must be installed; scripts/servers.sh does that, and the error of a missing one names the make target.
package local
