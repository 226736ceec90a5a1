package access

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/types/known/durationpb"
)

// ForwardedKey marks a gRPC call that a node has passed on, with the name of that node.
const ForwardedKey = "footfall-forwarded-by"

// Reason is why a call was refused: a label of the metric.
type Reason string

// The reasons.
const (
	// ReasonMissing is a call without a token, ReasonMalformed one with something else than a bearer token.
	ReasonMissing   Reason = "missing"
	ReasonMalformed Reason = "malformed"
	// ReasonUnknown is a token that is not in the file, ReasonExpired one that was good once.
	ReasonUnknown Reason = "unknown"
	ReasonExpired Reason = "expired"
	// ReasonRole is a good token without the role.
	ReasonRole Reason = "role"
	// ReasonForged is a mark of another node than the one that shows its certificate, or of none.
	ReasonForged Reason = "forged"
	// ReasonCertificate is a client's that the trust domain does not vouch for, ReasonPeer that of
	// what this node took for another node.
	ReasonCertificate Reason = "certificate"
	ReasonPeer        Reason = "peer"
	// reasonLimited is counted apart.
	reasonLimited Reason = "limited"
)

// Refusal is why a call is not answered.
type Refusal struct {
	Reason  Reason
	Message string
	// Role is the one that is missing, for ReasonRole.
	Role Role
	// RetryAfter is how long the caller should wait, where it made too many calls.
	RetryAfter time.Duration
}

func (r *Refusal) Error() string { return r.Message }

// GRPCStatus is what a gRPC client hears.
func (r *Refusal) GRPCStatus() *status.Status {
	switch r.Reason {
	case ReasonRole, ReasonForged:
		return status.New(codes.PermissionDenied, r.Message)
	case reasonLimited:
		s := status.New(codes.ResourceExhausted, r.Message)
		if with, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(r.RetryAfter)}); err == nil {
			return with
		}
		return s
	default:
		return status.New(codes.Unauthenticated, r.Message)
	}
}

// Challenge is the WWW-Authenticate header of a refusal (RFC 6750); empty where there is none.
func (r *Refusal) Challenge() string {
	switch r.Reason {
	case ReasonMissing:
		return `Bearer realm="footfall"`
	case ReasonRole:
		return fmt.Sprintf(`Bearer realm="footfall", error="insufficient_scope", scope=%q`, r.Role)
	case reasonLimited, ReasonForged:
		return ""
	default:
		return `Bearer realm="footfall", error="invalid_token"`
	}
}

// call is one that somebody makes.
type call struct {
	transport, what string
	role            Role
	listed          bool
	remote          net.Addr
	authorization   []string
	// marks are those of nodes that passed it on; node is the one whose certificate was shown.
	marks []string
	node  string
}

// check refuses a call, or returns who makes it. The limit comes last, since a token says whose it is.
func (a *Access) check(c *call) (who string, refusal *Refusal) {
	if c.listed && c.role == Open {
		return "", nil
	}
	tokens, known := a.tokens.Load(), a.knowsNodes()
	switch {
	case len(c.marks) > 0 && (tokens != nil || known) && (c.node == "" || len(c.marks) > 1 || c.marks[0] != c.node):
		return c.node, &Refusal{Reason: ReasonForged, Message: "only a node that shows its certificate may pass calls on, and in no other's name"}
	case c.node != "":
		return c.node, nil // a node may do what it is asked by others, who were asked for their roles there
	case c.listed && c.role == Node && (tokens != nil || known):
		refusal = &Refusal{Reason: ReasonRole, Role: Node, Message: "only nodes of the trust domain call this of each other"}
	case tokens != nil:
		who, refusal = a.checkToken(*tokens, c)
	}
	// On a node that asks nobody, programs of its own machine are its user's own.
	if a.rates != nil && (tokens != nil || !local(c.remote)) {
		key := "token " + who
		if who == "" {
			key, _ = hostOf(c.remote)
		}
		if wait := a.rates.take(key, a.now()); wait > 0 {
			return who, &Refusal{Reason: reasonLimited, Message: "more calls than limits.requests_per_second: try again later", RetryAfter: wait}
		}
	}
	return who, refusal
}

// knowsNodes reports whether nodes show who they are.
func (a *Access) knowsNodes() bool {
	t := a.trust.Load()
	return t != nil && t.roots != nil
}

// checkToken returns whose token it is, and what is wrong with that.
func (a *Access) checkToken(tokens []Token, c *call) (who string, refusal *Refusal) {
	if len(c.authorization) == 0 {
		return "", &Refusal{Reason: ReasonMissing, Message: "a token is needed: Authorization: Bearer TOKEN (footfall --token)"}
	}
	kind, presented, _ := strings.Cut(c.authorization[0], " ")
	if presented = strings.TrimSpace(presented); len(c.authorization) > 1 || !strings.EqualFold(kind, "Bearer") || presented == "" {
		return "", &Refusal{Reason: ReasonMalformed, Message: "the Authorization must be one, of the form: Bearer TOKEN"}
	}
	t, ok := find(tokens, presented)
	switch {
	case !ok:
		return "", &Refusal{Reason: ReasonUnknown, Message: "the token is not known here"}
	case !t.Expires.IsZero() && !a.now().Before(t.Expires):
		return t.Name, &Refusal{Reason: ReasonExpired, Message: "the token has expired on " + t.Expires.Format(time.RFC3339)}
	case c.listed && !t.Roles.Has(c.role):
		return t.Name, &Refusal{Reason: ReasonRole, Role: c.role, Message: fmt.Sprintf("the token lacks the role %s: it has %s", c.role, t.Roles)}
	}
	return t.Name, nil
}

// refused counts a refusal and writes it down.
func (a *Access) refused(transport string, r *Refusal, what string, remote net.Addr, who string) {
	if r.Reason == reasonLimited {
		a.metrics.limited.WithLabelValues(transport).Inc()
	} else {
		a.metrics.refused.WithLabelValues(transport, string(r.Reason)).Inc()
	}
	from, _ := hostOf(remote)
	a.log.Warn("call refused", "transport", transport, "reason", string(r.Reason), "call", shown(what), "remote", from, "caller", who, "why", r.Message)
}

// shown bounds what a client made up.
func shown(what string) string {
	if len(what) > 120 {
		what = what[:120] + "…"
	}
	return strings.ToValidUTF8(what, "\ufffd")
}

// allowed writes down who changes how the cluster runs.
func (a *Access) allowed(c *call, who string) {
	if c.listed && c.role == Operate && who != "" {
		a.logger.Info("operation allowed", "call", shown(c.what), "caller", who, "by_node", c.node != "")
	}
}

// Tap decides on a gRPC call once its headers are there: its body is not read where it is refused.
// It is a tap.ServerInHandle, which runs in the goroutine that reads the connection, so it waits
// for nothing.
func (a *Access) Tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	c := &call{transport: transportGRPC, what: info.FullMethodName, authorization: info.Header.Get("authorization"), marks: info.Header.Get(ForwardedKey)}
	c.role, c.listed = RoleOfMethod(info.FullMethodName)
	var who string
	refusal := a.client(ctx, c)
	if refusal == nil {
		who, refusal = a.check(c)
	}
	switch {
	case refusal != nil:
		a.refused(c.transport, refusal, c.what, c.remote, who)
		return nil, refusal.GRPCStatus().Err()
	case !c.listed && a.tokens.Load() != nil:
		return nil, status.Error(codes.Unimplemented, "no method "+shown(info.FullMethodName))
	}
	a.allowed(c, who)
	return ctx, nil
}

// client finds out which node makes a gRPC call, where it is one.
func (a *Access) client(ctx context.Context, c *call) *Refusal {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	c.remote = p.Addr
	info, ok := p.AuthInfo.(*nodeInfo)
	if !ok {
		return nil
	}
	if err := info.still(a.trust.Load(), a); err != nil {
		return &Refusal{Reason: ReasonCertificate, Message: err.Error()}
	}
	c.node = info.node
	return nil
}

// ErrNoRoute says that there is no such HTTP call.
var ErrNoRoute = errors.New("there is no such call")

// Check decides on an HTTP call: nil, [ErrNoRoute] or *[Refusal].
func (a *Access) Check(r *http.Request) error {
	c := &call{transport: transportHTTP, what: r.Method + " " + r.URL.Path, remote: addrOf(r.RemoteAddr), authorization: r.Header.Values("Authorization")}
	c.role, c.listed = RoleOfRoute(r.Method, r.URL.Path)
	who, refusal := a.check(c)
	switch {
	case refusal != nil:
		a.refused(c.transport, refusal, c.what, c.remote, who)
		return refusal
	case !c.listed && a.tokens.Load() != nil:
		return ErrNoRoute
	}
	a.allowed(c, who)
	return nil
}

// addrOf is the address of a client of HTTP.
type addrOf string

// Network implements net.Addr.
func (addrOf) Network() string { return "tcp" }

func (a addrOf) String() string { return string(a) }
