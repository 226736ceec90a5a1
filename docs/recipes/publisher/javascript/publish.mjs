// Publishes events from standard input, one JSON object a line, each to the stream of its customer.
//
//   npm ci && node publish.mjs amqp://till:secret@localhost:5672 64 < events.ndjson
import { createInterface } from 'node:readline';
import { crc32 } from 'node:zlib';
import { connect } from 'amqplib';

const [url, count] = process.argv.slice(2);
const shards = Number(count); // 0: the nodes find each event's
const window = 1000; // messages on their way at once

const connection = await connect(url);
const channels = new Map(); // by routing key: each stream needs one that no other stream is published on
const returned = [];

const open = async (key) => {
  const channel = await connection.createConfirmChannel();
  channel.on('return', (message) => returned.push(message)); // comes before the message's confirm
  channels.set(key, channel);
  return channel;
};

// Rejects where the broker refused a message or the connection broke.
const settle = async () => {
  for (const channel of channels.values()) await channel.waitForConfirms();
  if (returned.length) throw new Error(`came back: ${returned[0].content}`);
};

let pending = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const customer = JSON.parse(line).customer_id;
  const key = shards ? String(crc32(customer) % shards) : '';
  const channel = channels.get(key) ?? (await open(key));
  channel.publish('footfall.events', key, Buffer.from(line), { contentType: 'application/json', persistent: true, mandatory: true });
  if (++pending % window === 0) await settle();
}
await settle();
await connection.close();
