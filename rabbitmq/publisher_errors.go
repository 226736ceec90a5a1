package rabbitmq

import (
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ReturnedError says that the broker could not route a message: it is stored nowhere.
type ReturnedError struct {
	Exchange, Key string
	// Text is what the broker says: "312 NO_ROUTE".
	Text string
}

func (e *ReturnedError) Error() string {
	return fmt.Sprintf("returned: %s leads nowhere: %s", route(e.Exchange, e.Key), e.Text)
}

// NackedError says that the broker refused a message: it may be stored in part, and must be
// sent again.
type NackedError struct {
	Exchange, Key string
}

func (e *NackedError) Error() string {
	return fmt.Sprintf("refused: the broker did not store a message to %s", route(e.Exchange, e.Key))
}

// LostError says that a channel was lost, or was not there, before the broker confirmed a
// message.
type LostError struct {
	Exchange, Key string
	// Sent says that the message may be stored or not; else it was not sent.
	Sent bool
	Err  error
}

func (e *LostError) Error() string {
	if e.Sent {
		return fmt.Sprintf("lost: a message to %s may be stored or not: %v", route(e.Exchange, e.Key), e.Err)
	}
	return fmt.Sprintf("lost: a message to %s was not sent: %v", route(e.Exchange, e.Key), e.Err)
}

func (e *LostError) Unwrap() error { return e.Err }

func route(exchange, key string) string {
	if exchange == "" {
		return fmt.Sprintf("queue %q", key)
	}
	return fmt.Sprintf("exchange %q with key %q", exchange, key)
}

const (
	// maxShort is what AMQP's short strings hold, in bytes.
	maxShort = 255
	// maxHeaders bounds the headers, which must fit into one frame with the properties.
	maxHeaders = 64 << 10
)

// checkMessage finds what amqp091-go would only find while writing, at the price of the
// whole connection.
func checkMessage(exchange, key string, m *amqp.Publishing) error {
	for _, f := range [...]struct{ field, value string }{
		{"exchange", exchange},
		{"routing key", key},
		{"content_type", m.ContentType},
		{"content_encoding", m.ContentEncoding},
		{"correlation_id", m.CorrelationId},
		{"reply_to", m.ReplyTo},
		{"expiration", m.Expiration},
		{"message_id", m.MessageId},
		{"type", m.Type},
		{"user_id", m.UserId},
		{"app_id", m.AppId},
	} {
		if len(f.value) > maxShort {
			return fmt.Errorf("message to %s: %s has %d bytes, more than %d", route(exchange, key), f.field, len(f.value), maxShort)
		}
	}
	if len(m.Headers) == 0 {
		return nil
	}
	if err := m.Headers.Validate(); err != nil {
		return fmt.Errorf("message to %s: headers: %w", route(exchange, key), err)
	}
	size := 0
	for k, v := range m.Headers {
		if len(k) > maxShort {
			return fmt.Errorf("message to %s: the name of a header has %d bytes, more than %d", route(exchange, key), len(k), maxShort)
		}
		size += len(k) + 16
		switch v := v.(type) {
		case string:
			size += len(v)
		case []byte:
			size += len(v)
		case amqp.Table, []any:
			return fmt.Errorf("message to %s: header %q is a table or a list: only plain values are sent", route(exchange, key), k)
		}
	}
	if size > maxHeaders {
		return fmt.Errorf("message to %s: headers have about %d bytes, more than %d", route(exchange, key), size, maxHeaders)
	}
	return nil
}
