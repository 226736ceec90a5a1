package rabbitmq

import (
	"net"
	"sync"
)

// corkBytes is how much is held back at most.
const corkBytes = 64 << 10

// corkedConn is a connection that holds back what is written while it is corked, so that many
// messages go out in one piece: amqp091-go writes each by itself, which costs a system call here
// and a wake-up of the broker. Who corks it must not wait for an answer before it uncorks.
type corkedConn struct {
	net.Conn

	mu     sync.Mutex // orders writes
	corked bool
	held   []byte
}

func (c *corkedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.corked {
		if len(c.held)+len(p) <= corkBytes {
			c.held = append(c.held, p...)
			return len(p), nil
		}
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

func (c *corkedConn) cork() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = true
}

// uncork writes what was held back. Where that fails the connection is closed: those whose writes
// those were have been told that all went well.
func (c *corkedConn) uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	err := c.flush()
	if err != nil {
		_ = c.Close()
	}
	return err
}

func (c *corkedConn) flush() error {
	if len(c.held) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.held)
	c.held = c.held[:0]
	return err
}
