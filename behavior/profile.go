package behavior

import (
	"encoding/binary"
	"strings"

	"footfall/messages"
)

// The profile stands at the end of a record. A customer who has none has no bytes of it:
//
//	u8  length of known_as, then known_as
//	for each attribute, in order of the keys:
//	  u8  length of the key, u16 length of the value, then both
//
// Bounds are those of the validator. What is longer is cut, so that Apply is total.

// profile is the view of a profile's bytes, which may be empty.
type profile []byte

func (r Record) profile() profile {
	if len(r) == 0 {
		return nil
	}
	return profile(r[r.head().profileAt():])
}

func (p profile) knownAs() []byte {
	if len(p) == 0 {
		return nil
	}
	return p[1 : 1+int(p[0])]
}

func (p profile) attributes() profile {
	if len(p) == 0 {
		return nil
	}
	return p[1+int(p[0]):]
}

// next splits the first attribute off; only where there is one.
func (p profile) next() (key, value []byte, rest profile) {
	k, v := int(p[0]), int(binary.LittleEndian.Uint16(p[1:]))
	return p[3 : 3+k], p[3+k : 3+k+v], p[3+k+v:]
}

// KnownAs is the name that an identify gave to the customer, or empty.
func (r Record) KnownAs() string { return string(r.profile().knownAs()) }

// Attributes is what profiles say of the customer, sorted by key.
func (r Record) Attributes() []Attribute {
	var as []Attribute
	for p := r.profile().attributes(); len(p) > 0; {
		key, value, rest := p.next()
		as = append(as, Attribute{string(key), string(value)})
		p = rest
	}
	return as
}

// setKnownAs replaces the name that the customer is known under.
func (r Record) setKnownAs(name string) Record {
	name = name[:min(len(name), messages.MaxID)]
	old := r.profile()
	if len(old) == 0 && name == "" {
		return r
	}
	p := make(profile, 0, 1+len(name)+len(old))
	p = append(p, byte(len(name)))
	p = append(p, name...)
	p = append(p, old.attributes()...)
	return r.setProfile(p)
}

// setAttributes merges changes, sorted by key, into the attributes: an empty value removes.
// Past the highest number of attributes, new keys are left out, the last in order first.
func (r Record) setAttributes(changes []Attribute) Record {
	old := r.profile()
	size, room := 1+len(old), messages.MaxAttributes
	for p := old.attributes(); len(p) > 0; room-- {
		_, _, p = p.next()
	}
	last := ""
	for _, c := range changes {
		size += 3 + len(c.Key) + len(c.Value)
		key := cutKey(c.Key)
		if key <= last {
			continue
		}
		last = key
		if c.Value == "" && old.has(key) {
			room++
		}
	}

	p := append(make(profile, 0, size), byte(len(old.knownAs())))
	p = append(p, old.knownAs()...)
	rest := old.attributes()
	last = ""
	for _, c := range changes {
		key := cutKey(c.Key)
		if key <= last {
			continue // empty, out of order, or given twice
		}
		last = key
		known := false
		for len(rest) > 0 && !known {
			k, v, after := rest.next()
			order := strings.Compare(string(k), key)
			if order > 0 {
				break
			}
			if known = order == 0; !known {
				p = p.add(string(k), string(v))
			}
			rest = after
		}
		if c.Value == "" {
			continue
		}
		if !known {
			if room == 0 {
				continue
			}
			room--
		}
		p = p.add(key, c.Value)
	}
	return r.setProfile(append(p, rest...))
}

func cutKey(key string) string { return key[:min(len(key), messages.MaxAttributeKey)] }

func (p profile) has(key string) bool {
	for rest := p.attributes(); len(rest) > 0; {
		k, _, after := rest.next()
		if string(k) == key {
			return true
		}
		rest = after
	}
	return false
}

func (p profile) add(key, value string) profile {
	value = value[:min(len(value), messages.MaxAttributeValue)]
	p = append(p, byte(len(key)))
	p = binary.LittleEndian.AppendUint16(p, uint16(len(value)))
	p = append(p, key...)
	return append(p, value...)
}

// setProfile replaces the profile; one that says nothing takes no bytes.
func (r Record) setProfile(p profile) Record {
	if len(p) == 1 {
		p = nil
	}
	at := r.head().profileAt()
	r = r[:at].open(at, len(p))
	copy(r[at:], p)
	return r
}
