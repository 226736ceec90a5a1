// Package rabbitmq takes events in through RabbitMQ and keeps the log of every shard in its
// streams. Its main types, from the wire up:
//
//   - [Conn] is one AMQP connection that comes back by itself, and says why while it is away
//     and when the broker takes nothing.
//   - [Publisher] sends messages in order with confirms: it says of each whether the broker
//     has it, has it not, or whether nobody can know.
//   - [Topology] names the exchanges, queues and streams, declares them, and finds out where
//     what is there is not what was wanted.
//   - [Log] is the log of shards: a stream each. What it has appended is confirmed by the
//     broker; what it reads it proves: no message is passed over, none is taken for another.
//   - [Bridge] takes the events of publishers that do not know shards to the streams, once each
//     and in order, whatever crashes between.
//   - [DeadQueue] is the queue of what could not be accepted.
//
// The broker says nothing of the messages that a stream has lost: who attaches at an offset
// that is not there gets another one. Everything that is promised here is therefore
// checked by readers; see [Log].
package rabbitmq
