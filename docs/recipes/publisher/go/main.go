// Go publishes events from standard input, one JSON object a line, each to the stream of its customer.
//
//	go run . amqp://till:secret@localhost:5672 64 < events.ndjson
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"hash/crc32"
	"log"
	"os"
	"strconv"

	amqp "github.com/rabbitmq/amqp091-go"
)

const window = 1000 // messages on their way at once

func main() {
	log.SetFlags(0)
	shards := must(strconv.ParseUint(os.Args[2], 10, 32)) // 0: the nodes find each event's
	conn := must(amqp.Dial(os.Args[1]))
	channels := map[string]channel{} // by routing key: each stream needs one that no other stream is published on

	var pending []*amqp.DeferredConfirmation
	settle := func() {
		for _, confirm := range pending {
			if !confirm.Wait() {
				log.Fatal("the broker refused a message, or the connection broke")
			}
		}
		for _, ch := range channels {
			if len(ch.returned) > 0 {
				log.Fatalf("came back: %s", (<-ch.returned).Body)
			}
		}
		pending = pending[:0]
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			Customer string `json:"customer_id"`
		}
		check(json.Unmarshal(lines.Bytes(), &event))
		key := ""
		if shards > 0 {
			key = strconv.FormatUint(uint64(crc32.ChecksumIEEE([]byte(event.Customer)))%shards, 10)
		}
		ch, ok := channels[key]
		if !ok {
			ch = open(conn)
			channels[key] = ch
		}
		message := amqp.Publishing{ContentType: "application/json", DeliveryMode: amqp.Persistent, Body: bytes.Clone(lines.Bytes())}
		pending = append(pending, must(ch.PublishWithDeferredConfirm("footfall.events", key, true, false, message)))
		if len(pending) == window {
			settle()
		}
	}
	check(lines.Err())
	settle()
	check(conn.Close())
}

// channel is one in confirm mode.
type channel struct {
	*amqp.Channel
	returned <-chan amqp.Return // has what came back before its confirm is there
}

func open(conn *amqp.Connection) channel {
	ch := must(conn.Channel())
	check(ch.Confirm(false))
	return channel{ch, ch.NotifyReturn(make(chan amqp.Return, window))}
}

func must[T any](v T, err error) T { check(err); return v }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
