package cluster

import (
	"encoding/binary"
	"fmt"
	"slices"

	"footfall/messages"
)

// Metadata travel with every gossip message about a member, so they are small:
//
//	version  1 byte, 1
//	state    1 byte
//	roles    1 byte
//	shards   uvarint
//	incarnation, gRPC address, HTTP address, program version   each a uvarint length and bytes
//	devices left out   uvarint
//	devices            uvarint count, then each a uvarint length and bytes
//	whatever newer nodes append, which older ones pass over
//
// The name is memberlist's. The version byte changes only when older nodes could not read
// the rest; then both must be in use for a while.
const metaVersion = 1

// metaLimit is memberlist's.
const metaLimit = 512

// Most bytes of each string, so that all of them fit even without devices.
const (
	maxName        = 64
	maxIncarnation = 36
	maxAddress     = 150
	maxVersion     = 48
	maxDevice      = 64
)

// checkMeta refuses what could not be gossiped.
func (m *Member) checkMeta() (faults []error) {
	check := func(what, value string, most int) {
		if len(value) > most {
			faults = append(faults, fmt.Errorf("%s has %d bytes, at most %d can be gossiped", what, len(value), most))
		}
	}
	if m.Name == "" {
		faults = append(faults, &messages.Fault{Field: "Name", Reason: "is empty"})
	}
	check("Name", m.Name, maxName)
	check("Incarnation", m.Incarnation, maxIncarnation)
	check("GRPC", m.GRPC, maxAddress)
	check("HTTP", m.HTTP, maxAddress)
	check("Version", m.Version, maxVersion)
	for i, d := range m.Devices {
		check(fmt.Sprintf("Devices[%d]", i), d, maxDevice)
	}
	return faults
}

// encodeMeta writes a member's metadata in at most limit bytes: devices that do not fit are
// counted instead.
func encodeMeta(m *Member, limit int) []byte {
	b := []byte{metaVersion, byte(m.State), byte(m.Roles)}
	b = binary.AppendUvarint(b, uint64(m.Shards))
	for _, s := range []string{m.Incarnation, m.GRPC, m.HTTP, m.Version} {
		b = appendString(b, s)
	}
	for n := len(m.Devices); ; n-- {
		out := binary.AppendUvarint(slices.Clip(b), uint64(m.DevicesLeftOut+len(m.Devices)-n))
		out = binary.AppendUvarint(out, uint64(n))
		for _, d := range m.Devices[:n] {
			out = appendString(out, d)
		}
		if len(out) <= limit || n == 0 {
			return out
		}
	}
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// metaError says that a member's metadata cannot be read: it is of another program, or of a
// version that this one does not know.
type metaError struct{ reason string }

func (e *metaError) Error() string { return "cluster: metadata of a member: " + e.reason }

// decodeMeta reads what encodeMeta wrote, but for the name. A state that is not known counts
// as joining: such a member gets no shards.
func decodeMeta(b []byte) (m Member, err error) {
	if len(b) < 3 {
		return m, &metaError{fmt.Sprintf("%d bytes are too few", len(b))}
	}
	if len(b) > metaLimit {
		return m, &metaError{fmt.Sprintf("%d bytes are too many", len(b))}
	}
	if b[0] != metaVersion {
		return m, &metaError{fmt.Sprintf("version %d is not known, only %d", b[0], metaVersion)}
	}
	m.State, m.Roles = MemberState(b[1]), Roles(b[2])
	if m.State > MemberDraining {
		m.State = MemberJoining
	}
	r := metaReader{rest: b[3:]}
	shards := r.uvarint()
	m.Incarnation, m.GRPC, m.HTTP, m.Version = r.string(), r.string(), r.string(), r.string()
	leftOut := r.uvarint()
	count := r.uvarint()
	for i := uint64(0); i < count && !r.failed; i++ {
		m.Devices = append(m.Devices, r.string())
	}
	const most = 1 << 24
	if r.failed || shards > most || leftOut > most {
		return Member{}, &metaError{"it ends early, or a number is too large"}
	}
	m.Shards, m.DevicesLeftOut = int(shards), int(leftOut)
	return m, nil
}

// metaReader reads until something is wrong.
type metaReader struct {
	rest   []byte
	failed bool
}

func (r *metaReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.failed, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *metaReader) string() string {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.failed, r.rest = true, nil
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}
