package cluster

// Roles of a member, a set.
type Roles uint8

// The roles.
const (
	// RoleShards owns shards.
	RoleShards Roles = 1 << iota
	// RoleInference has devices that run models.
	RoleInference
)

// Member is what is known of one node.
type Member struct {
	// Name is stable: a node that restarts has the same.
	Name string
	// Incarnation tells apart the processes that had the name.
	Incarnation string
	State       MemberState
	Roles       Roles
	// GRPC and HTTP are the addresses of its API, host:port.
	GRPC, HTTP string
	// Version is that of its program.
	Version string
	// Shards is the number of shards that it has been configured for.
	Shards int
	// Devices are those of an inference member. DevicesLeftOut counts those that did not fit.
	Devices        []string
	DevicesLeftOut int
}

// Owns tells whether the member has the role to own shards.
func (m Member) Owns() bool { return m.Roles&RoleShards != 0 }
