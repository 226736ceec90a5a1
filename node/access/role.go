package access

import (
	"errors"
	"fmt"
	"strings"
)

// Role is what a caller must be allowed to for a call.
type Role uint8

// The roles of tokens, and what needs none. None implies another.
const (
	// Open is for everybody: health.
	Open Role = iota
	// Ingest sends events.
	Ingest
	// Read asks: customers, the cluster, models, metrics.
	Read
	// Operate changes how the cluster runs.
	Operate
	// Node is for the nodes of the trust domain alone: no token has it.
	Node
)

var roleNames = [...]string{Open: "open", Ingest: "ingest", Read: "read", Operate: "operate", Node: "node"}

func (r Role) String() string { return roleNames[r] }

// Roles are those of a token.
type Roles uint8

// RolesOf makes a set.
func RolesOf(roles ...Role) (out Roles) {
	for _, r := range roles {
		out |= 1 << r
	}
	return out
}

// Has reports whether a role is among them. Everybody has [Open].
func (s Roles) Has(r Role) bool { return r == Open || s&(1<<r) != 0 }

// names are those of the roles, in the order of the roles.
func (s Roles) names() (names []string) {
	for r := Ingest; r <= Operate; r++ {
		if s.Has(r) {
			names = append(names, r.String())
		}
	}
	return names
}

func (s Roles) String() string { return strings.Join(s.names(), ",") }

// ParseRoles reads names of roles, each once.
func ParseRoles(names []string) (s Roles, err error) {
	for _, name := range names {
		name = strings.TrimSpace(name)
		r := Open
		for known := Ingest; known <= Operate; known++ {
			if known.String() == name {
				r = known
			}
		}
		switch {
		case r == Open:
			return 0, fmt.Errorf("must be of ingest, read and operate, not %q", name)
		case s.Has(r):
			return 0, fmt.Errorf("names %s twice", name)
		}
		s |= RolesOf(r)
	}
	if s == 0 {
		return 0, errors.New("must name at least one of ingest, read and operate")
	}
	return s, nil
}
