package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"footfall/messages"
	"footfall/messages/footfallv1"
)

// value reads and writes one field of a Config. Set leaves it as it is where it refuses.
type value interface {
	Set(string) error
	String() string
}

type nameValue struct{ p *string }

func (v *nameValue) Set(s string) error {
	if s == "" || len(s) > 63 {
		return errors.New("must have 1 to 63 characters")
	}
	for _, r := range s {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", r) {
			return fmt.Errorf("must be of letters, digits, '-', '_' and '.', not %q", r)
		}
	}
	*v.p = s
	return nil
}

func (v *nameValue) String() string { return *v.p }

type rolesValue struct{ p *Roles }

func (v *rolesValue) Set(s string) error {
	var roles Roles
	for role := range strings.SplitSeq(s, ",") {
		role = strings.TrimSpace(role)
		switch {
		case role != RoleShards && role != RoleInference:
			return fmt.Errorf("knows the roles shards and inference, not %q", role)
		case roles.Has(role):
			return fmt.Errorf("names %s twice", role)
		}
		roles = append(roles, role)
	}
	*v.p = roles
	return nil
}

func (v *rolesValue) String() string { return strings.Join(*v.p, ",") }

type addrValue struct {
	p        *string
	optional bool
}

func (v *addrValue) Set(s string) error {
	if s == "" && v.optional {
		*v.p = s
		return nil
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("must be HOST:PORT, not %q", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("must end with a port from 0 to 65535, not %q", port)
	} else if s = strings.TrimSuffix(s, port) + strconv.FormatUint(n, 10); s == "" {
		return errors.New("must be HOST:PORT")
	}
	*v.p = s
	return nil
}

func (v *addrValue) String() string { return *v.p }

// reachValue is an address under which others reach a listener: a host and a port that are both told.
type reachValue struct{ p *string }

func (v *reachValue) Set(s string) error {
	if s != "" {
		if err := reachable(s); err != nil {
			return err
		}
	}
	*v.p = s
	return nil
}

func (v *reachValue) String() string { return *v.p }

// reachable refuses what nobody could connect to.
func reachable(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return fmt.Errorf("must be HOST:PORT, not %q", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("must end with a port from 1 to 65535, not %q", port)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("must name one machine, and %s is all of its addresses", host)
	}
	return nil
}

// seedsValue lists addresses of members, each once.
type seedsValue struct{ p *[]string }

func (v *seedsValue) Set(s string) error {
	var seeds []string
	for seed := range strings.SplitSeq(s, ",") {
		if seed = strings.TrimSpace(seed); seed == "" && s == "" {
			break
		}
		if err := reachable(seed); err != nil {
			return err
		}
		if slices.Contains(seeds, seed) {
			return fmt.Errorf("names %s twice", seed)
		}
		seeds = append(seeds, seed)
	}
	*v.p = seeds
	return nil
}

func (v *seedsValue) String() string { return strings.Join(*v.p, ",") }

type boolValue struct{ p *bool }

func (v *boolValue) Set(s string) error {
	switch s {
	case "true":
		*v.p = true
	case "false":
		*v.p = false
	default:
		return fmt.Errorf("must be true or false, not %q", s)
	}
	return nil
}

func (v *boolValue) String() string { return strconv.FormatBool(*v.p) }

// logValue is where the log is: a directory for Pebble, or the URL of a broker.
type logValue struct{ dir, broker *string }

func (v *logValue) Set(s string) error {
	scheme, _, _ := strings.Cut(s, ":")
	if scheme == "pebble" {
		if err := (&dirValue{v.dir, scheme}).Set(s); err != nil {
			return err
		}
		*v.broker = ""
		return nil
	}
	if scheme != "amqp" && scheme != "amqps" {
		return errors.New("must be pebble:DIR, amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps://…") // not what was given: it may hold a password
	}
	if _, err := amqp.ParseURI(s); err != nil {
		return fmt.Errorf("is no URL of a broker, such as %s://USER:PASSWORD@HOST:PORT/VHOST", scheme)
	}
	*v.dir, *v.broker = "", s
	return nil
}

// String shows no password.
func (v *logValue) String() string {
	if *v.broker == "" {
		return (&dirValue{v.dir, "pebble"}).String()
	}
	u, err := url.Parse(*v.broker)
	if err != nil {
		return ""
	}
	return u.Redacted()
}

// storeValue is where the store is: a directory for Pebble, or the URLs of databases.
type storeValue struct {
	dir       *string
	databases *[]string
}

func (v *storeValue) Set(s string) error {
	if scheme, _, _ := strings.Cut(s, ":"); scheme == "pebble" {
		if err := (&dirValue{v.dir, scheme}).Set(s); err != nil {
			return err
		}
		*v.databases = nil
		return nil
	}
	var databases []string
	for text := range strings.SplitSeq(s, ",") {
		text = strings.TrimSpace(text)
		scheme, _, _ := strings.Cut(text, ":")
		if scheme != "postgres" && scheme != "postgresql" {
			return errors.New("must be pebble:DIR, or postgres://USER:PASSWORD@HOST:PORT/DATABASE, or a list of such") // not what was given: it may hold a password
		}
		if u, err := url.Parse(text); err != nil || u.Host == "" && u.Query().Get("host") == "" {
			return errors.New("holds what is no URL of a database, such as postgres://USER:PASSWORD@HOST:PORT/DATABASE")
		}
		if slices.Contains(databases, text) {
			return errors.New("names a database twice")
		}
		databases = append(databases, text)
	}
	*v.dir, *v.databases = "", databases
	return nil
}

// String shows no password.
func (v *storeValue) String() string {
	if len(*v.databases) == 0 {
		return (&dirValue{v.dir, "pebble"}).String()
	}
	var shown []string
	for _, text := range *v.databases {
		u, err := url.Parse(text)
		if err != nil {
			continue
		}
		if q := u.Query(); q.Has("password") {
			q.Set("password", "xxxxx")
			u.RawQuery = q.Encode()
		}
		shown = append(shown, u.Redacted())
	}
	return strings.Join(shown, ",")
}

type textValue struct{ p *string }

func (v *textValue) Set(s string) error {
	*v.p = s
	return nil
}

func (v *textValue) String() string { return *v.p }

// dirValue is a URL that names a directory: SCHEME:DIR.
type dirValue struct {
	p      *string
	scheme string
}

func (v *dirValue) Set(s string) error {
	scheme, dir, ok := strings.Cut(s, ":")
	if !ok || scheme != v.scheme {
		return fmt.Errorf("must be %s:DIR, not %q", v.scheme, s)
	}
	// file:///a and file:/a are the same.
	if rest, ok := strings.CutPrefix(dir, "//"); ok && strings.HasPrefix(rest, "/") {
		dir = rest
	}
	if dir == "" {
		return fmt.Errorf("must name a directory after %q", v.scheme+":")
	}
	*v.p = dir
	return nil
}

func (v *dirValue) String() string { return v.scheme + ":" + *v.p }

type durationValue struct {
	p    *time.Duration
	zero bool
}

const day = 24 * time.Hour

func (v *durationValue) Set(s string) error {
	var d time.Duration
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 31)
		if err != nil || n > uint64(math.MaxInt64/day) {
			return fmt.Errorf("must be a duration like 90s, 12h or 35d, not %q", s)
		}
		d = time.Duration(n) * day
	} else {
		var err error
		if d, err = time.ParseDuration(s); err != nil {
			return fmt.Errorf("must be a duration like 90s, 12h or 35d, not %q", s)
		}
	}
	switch {
	case d < 0:
		return fmt.Errorf("must not be below 0, and is %s", s)
	case d == 0 && !v.zero:
		return errors.New("must be above 0")
	}
	*v.p = d
	return nil
}

func (v *durationValue) String() string {
	if d := *v.p; d > 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	return v.p.String()
}

type bytesValue struct {
	p    *int64
	zero bool
}

var units = []struct {
	name string
	size int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}, {"", 1}}

func (v *bytesValue) Set(s string) error {
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/u.size {
			break
		}
		if n == 0 && !v.zero {
			return errors.New("must be above 0")
		}
		*v.p = n * u.size
		return nil
	}
	return fmt.Errorf("must be a size like 512MiB or 2GiB, not %q", s)
}

func (v *bytesValue) String() string {
	for _, u := range units {
		if n := *v.p; n > 0 && n%u.size == 0 && u.size > 1 {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(*v.p, 10)
}

type intValue struct {
	p           *int
	least, most int
}

func (v *intValue) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < v.least || n > v.most {
		return fmt.Errorf("must be a whole number from %d to %d, not %q", v.least, v.most, s)
	}
	*v.p = n
	return nil
}

func (v *intValue) String() string { return strconv.Itoa(*v.p) }

// devicesValue lists devices; auto, which leaves the list empty, has them found.
type devicesValue struct{ p *[]string }

var deviceForm = regexp.MustCompile(`^(CPU|GPU):(0|[1-9][0-9]{0,2})$`)

func (v *devicesValue) Set(s string) error {
	if s == "auto" {
		*v.p = nil
		return nil
	}
	var devices []string
	for name := range strings.SplitSeq(s, ",") {
		name = strings.TrimSpace(name)
		switch {
		case !deviceForm.MatchString(name):
			return fmt.Errorf("must be auto, or devices like CPU:0 or GPU:1, not %q", name)
		case slices.Contains(devices, name):
			return fmt.Errorf("names %s twice", name)
		}
		devices = append(devices, name)
	}
	*v.p = devices
	return nil
}

func (v *devicesValue) String() string {
	if len(*v.p) == 0 {
		return "auto"
	}
	return strings.Join(*v.p, ",")
}

type percentValue struct{ p *int }

func (v *percentValue) Set(s string) error {
	number, found := strings.CutSuffix(s, "%")
	n, err := strconv.Atoi(number)
	if !found || err != nil || n < 1 || n > 100 {
		return fmt.Errorf("must be from 1%% to 100%%, not %q", s)
	}
	*v.p = n
	return nil
}

func (v *percentValue) String() string { return strconv.Itoa(*v.p) + "%" }

// numbersValue lists numbers, each once.
type numbersValue struct{ p *string }

func (v *numbersValue) Set(s string) error {
	var numbers []string
	for number := range strings.SplitSeq(s, ",") {
		number = strings.TrimSpace(number)
		if number == "" && s == "" {
			break
		}
		n, err := strconv.ParseUint(number, 10, 8)
		switch number = strconv.FormatUint(n, 10); {
		case err != nil:
			return fmt.Errorf("must be numbers like 0,2, not %q", s)
		case slices.Contains(numbers, number):
			return fmt.Errorf("names %s twice", number)
		}
		numbers = append(numbers, number)
	}
	*v.p = strings.Join(numbers, ",")
	return nil
}

func (v *numbersValue) String() string { return *v.p }

type shardsValue struct{ p *int }

func (v *shardsValue) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > messages.MaxShards || n&(n-1) != 0 {
		return fmt.Errorf("must be a power of two from 1 to %d, not %q", messages.MaxShards, s)
	}
	*v.p = n
	return nil
}

func (v *shardsValue) String() string { return strconv.Itoa(*v.p) }

type clockValue struct{ p *footfallv1.ClockMode }

func (v *clockValue) Set(s string) error {
	switch s {
	case "wall":
		*v.p = footfallv1.ClockMode_CLOCK_MODE_WALL
	case "driven":
		*v.p = footfallv1.ClockMode_CLOCK_MODE_DRIVEN
	default:
		return fmt.Errorf("must be wall or driven, not %q", s)
	}
	return nil
}

func (v *clockValue) String() string {
	if *v.p == footfallv1.ClockMode_CLOCK_MODE_DRIVEN {
		return "driven"
	}
	return "wall"
}

type zoneValue struct{ p **time.Location }

func (v *zoneValue) Set(s string) error {
	if s == "" || s == "Local" {
		return errors.New("must be a name of the time zone database, like America/New_York: a machine's own may change")
	}
	l, err := time.LoadLocation(s)
	if err != nil {
		return fmt.Errorf("must be a name of the time zone database, like America/New_York, not %q", s)
	}
	*v.p = l
	return nil
}

func (v *zoneValue) String() string { return (*v.p).String() }

type currencyValue struct{ p *string }

func (v *currencyValue) Set(s string) error {
	if len(s) != 3 || strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return fmt.Errorf("must be three capital letters (ISO 4217), not %q", s)
	}
	*v.p = s
	return nil
}

func (v *currencyValue) String() string { return *v.p }

type wordValue struct {
	p     *string
	words []string
}

func (v *wordValue) Set(s string) error {
	if !slices.Contains(v.words, s) {
		return fmt.Errorf("must be one of %s, not %q", strings.Join(v.words, ", "), s)
	}
	*v.p = s
	return nil
}

func (v *wordValue) String() string { return *v.p }

// modelsValue is where the models are: a directory, or the URL of an object store.
type modelsValue struct{ dir, url *string }

func (v *modelsValue) Set(s string) error {
	scheme, _, _ := strings.Cut(s, ":")
	if scheme == "file" {
		if err := (&dirValue{v.dir, scheme}).Set(s); err != nil {
			return err
		}
		*v.url = ""
		return nil
	}
	if !slices.Contains([]string{"s3", "gs", "azblob", "mem"}, scheme) {
		return errors.New("must be file:DIR, or an object store like s3://BUCKET?region=REGION, gs://BUCKET or azblob://CONTAINER")
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" && scheme != "mem" {
		return fmt.Errorf("is no URL of an object store, such as %s://BUCKET?prefix=models/", scheme)
	}
	*v.dir, *v.url = "", s
	return nil
}

// String shows nothing that may be secret.
func (v *modelsValue) String() string {
	if *v.url == "" {
		return (&dirValue{v.dir, "file"}).String()
	}
	u, err := url.Parse(*v.url)
	if err != nil {
		return ""
	}
	q := u.Query()
	for name := range q {
		if lower := strings.ToLower(name); strings.Contains(lower, "key") || strings.Contains(lower, "token") {
			q.Set(name, "xxxxx")
		}
	}
	u.RawQuery = q.Encode()
	return u.Redacted()
}

// splitValue is a share of the customers, from 0 and below 1, as a number or in per cent.
type splitValue struct{ p *float64 }

func (v *splitValue) Set(s string) error {
	number, percent := strings.CutSuffix(s, "%")
	f, err := strconv.ParseFloat(number, 64)
	if percent {
		f /= 100
	}
	if err != nil || !(f >= 0 && f < 1) {
		return fmt.Errorf("must be from 0%% to 99%%, not %q", s)
	}
	*v.p = f
	return nil
}

func (v *splitValue) String() string { return strconv.FormatFloat(*v.p*100, 'g', -1, 64) + "%" }
