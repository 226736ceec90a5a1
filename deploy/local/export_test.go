package local

import "testing"

// HideRabbitMQ makes this process see no RabbitMQ but that on PATH.
func HideRabbitMQ(t *testing.T) {
	before := debianRabbitMQ
	debianRabbitMQ = ""
	t.Cleanup(func() { debianRabbitMQ = before })
}
