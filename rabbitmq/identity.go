package rabbitmq

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/messages"
)

// What a log was created for is kept where the broker itself compares it, at the declaration
// of a node: in exchanges that nobody publishes to, one for each setting, whose alternate
// exchange is the value. Of all arguments of an exchange the broker compares this one only;
// others are taken for equal whatever they are.
//
// A declaration with another value is refused with both, so that it is a compare-and-set, and
// a way to read what is there.

type identityField struct{ field, value string }

// identity lists the settings. The fold version is left to the store.
func (t Topology) identity() []identityField {
	return []identityField{
		{"shards", strconv.Itoa(t.Identity.Shards)},
		{"timezone", t.Identity.Timezone},
		{"timezone_sum", t.Identity.TimezoneSum},
		{"currency", t.Identity.Currency},
	}
}

func (t Topology) identityName(field string) string { return t.name(".identity." + field) }

// identityValue begins with the prefix, since users may have permissions for names only that
// do, and an alternate exchange needs one.
func (t Topology) identityValue(value string) string { return t.name("." + value) }

// identityError makes *messages.IdentityError of a refused setting.
func (t Topology) identityError(err error) error {
	e, ok := errors.AsType[*TopologyError](err)
	if !ok || e.Argument != alternateArg {
		return err
	}
	field, ok := strings.CutPrefix(e.Name, t.identityName(""))
	if !ok {
		return err
	}
	prefix := t.identityValue("")
	return &messages.IdentityError{Field: field, Have: strings.TrimPrefix(e.Have, prefix), Want: strings.TrimPrefix(e.Want, prefix)}
}

// LogName returns a random name that the log on the broker got when it was asked for first: a
// store keeps it to notice another log.
func (t Topology) LogName(ctx context.Context, c *Conn) (string, error) {
	if err := t.check(); err != nil {
		return "", err
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	name := hex.EncodeToString(b[:])
	for range 2 {
		err := t.declareLogName(ctx, c, name)
		fixed, ok := errors.AsType[*messages.IdentityError](err)
		if !ok {
			return name, err
		}
		name = fixed.Have
	}
	return "", fmt.Errorf("the name of the log, in the arguments of exchange %s, cannot be read", t.identityName("log"))
}

func (t Topology) declareLogName(ctx context.Context, c *Conn, name string) error {
	ch, err := c.Channel(ctx)
	if err != nil {
		return err
	}
	return c.await(ctx, func() error {
		defer ch.Close() //nolint:errcheck // a channel that the broker has closed is closed
		d := declarer{ctx: ctx, ch: ch}
		d.exchange(t.identityName("log"), amqp.ExchangeFanout, true, amqp.Table{alternateArg: t.identityValue(name)})
		return t.identityError(d.err)
	}, nil)
}
