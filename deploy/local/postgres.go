package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// postgresUser is the server's only user.
const postgresUser = "footfall"

// PostgresOptions says how a PostgreSQL server is started. The zero value is a durable server in a temporary folder.
type PostgresOptions struct {
	// Dir holds everything of the server from run to run; "" is a temporary folder, which Stop removes. Where this process is root,
	// the server's user must be able to reach it.
	Dir string
	// Unsynced leaves the disk alone: a commit survives kill -9 of the server, but not a power cut.
	Unsynced bool
	// Settings are PostgreSQL's, by their names. They win over the package's own.
	Settings map[string]string
}

// Postgres is a PostgreSQL server of this process.
type Postgres struct {
	dir       string
	temporary bool
	bin       string
	account   *syscall.Credential
	settings  map[string]string
	ports     *Ports
	port      int
	password  string
	process   *Process
}

// StartPostgres starts a server over the data of its folder, which are made where there are none. It returns once the server
// takes connections.
//
// PostgreSQL refuses to run as root: there it runs as the user postgres, or nobody.
func StartPostgres(ctx context.Context, o PostgresOptions) (_ *Postgres, err error) {
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	p := &Postgres{dir: o.Dir, bin: bin, password: rand.Text()}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Stop(ctx))
		}
	}()
	if os.Geteuid() == 0 {
		if p.account, err = account("postgres", "nobody"); err != nil {
			return nil, err
		}
	}
	if p.dir == "" {
		p.temporary = true
		if p.dir, err = os.MkdirTemp("", "footfall-postgres-"); err != nil {
			return nil, err
		}
	} else if p.dir, err = filepath.Abs(p.dir); err != nil {
		return nil, err
	}
	if p.ports, err = ReservePorts(1); err != nil {
		return nil, err
	}
	p.port = p.ports.Next()
	if err := p.init(ctx, o); err != nil {
		return nil, err
	}
	p.configure(o)
	return p, p.Restart(ctx)
}

// postgresBin finds the folder of the newest server's programs.
func postgresBin() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // others come last
		return n
	}
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", errors.New("PostgreSQL is missing: make postgres installs it where apt may, and says what to install elsewhere")
	}
	// Its neighbours stand where it really is.
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	return filepath.Dir(path), nil
}

// account returns the first user of these that this machine has.
func account(names ...string) (*syscall.Credential, error) {
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("PostgreSQL refuses to run as root, and there is none of the users %s: add one", strings.Join(names, ", "))
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// secret is the file with the password.
func (p *Postgres) secret() string { return filepath.Join(p.dir, "password") }

// init makes the data, or finds what the last run has left.
func (p *Postgres) init(ctx context.Context, o PostgresOptions) error {
	made := filepath.Join(p.dir, "made")
	if _, err := os.Stat(made); err == nil {
		password, err := os.ReadFile(p.secret())
		p.password = strings.TrimSpace(string(password))
		return err
	}
	// What a run that was cut short has left.
	if err := os.RemoveAll(p.data()); err != nil {
		return err
	}
	if err := os.MkdirAll(p.data(), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(p.secret(), []byte(p.password+"\n"), 0o600); err != nil {
		return err
	}
	if p.account != nil {
		for _, path := range []string{p.dir, p.data(), p.secret()} {
			if err := os.Chown(path, int(p.account.Uid), int(p.account.Gid)); err != nil {
				return err
			}
		}
	}
	args := []string{
		"--pgdata", p.data(), "--username", postgresUser, "--pwfile", p.secret(),
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C",
	}
	if o.Unsynced {
		args = append(args, "--no-sync")
	}
	initdb, err := p.start("initdb", args, syscall.SIGKILL)
	if err != nil {
		return err
	}
	select {
	case <-initdb.Done():
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), initdb.Kill())
	}
	if initdb.err != nil {
		return initdb.Ended()
	}
	return os.WriteFile(made, nil, 0o600)
}

// configure chooses the settings.
func (p *Postgres) configure(o PostgresOptions) {
	p.settings = map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(p.port),
		"unix_socket_directories": p.dir,
		"max_connections":         "200",
		// In the data's folder, which goes with them when the server was killed.
		"dynamic_shared_memory_type": "mmap",
		// What is spread over a long time costs fewer whole pages in the log.
		"max_wal_size":       "4GB",
		"checkpoint_timeout": "15min",
	}
	if len(p.dir) > 80 { // the path of a socket is short
		p.settings["unix_socket_directories"] = ""
	}
	if o.Unsynced {
		p.settings["fsync"] = "off"
		p.settings["full_page_writes"] = "off"
	}
	maps.Copy(p.settings, o.Settings)
}

// start starts a program of PostgreSQL.
func (p *Postgres) start(name string, args []string, orphan syscall.Signal) (*Process, error) {
	return StartProcess(Command{
		Title:        "PostgreSQL's " + name,
		Path:         filepath.Join(p.bin, name),
		Args:         args,
		Env:          []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC", "HOME=" + p.dir},
		Dir:          p.dir,
		Log:          p.Log(),
		OrphanSignal: orphan,
		User:         p.account,
	})
}

// errOrphans says that processes of a killed server are still ending.
var errOrphans = errors.New("processes of the server that was killed are still there")

// Restart starts the server over its data after Kill or Halt, and returns once it takes connections.
func (p *Postgres) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("PostgreSQL did not start within a minute"))
	defer cancel()
	var failed error
	err := Await(ctx, func(ctx context.Context) error {
		if failed = p.restart(ctx); errors.Is(failed, errOrphans) {
			return failed
		}
		return nil
	})
	return errors.Join(err, failed)
}

func (p *Postgres) restart(ctx context.Context) error {
	size := logSize(p.Log())
	args := []string{"-D", p.data()}
	for _, name := range slices.Sorted(maps.Keys(p.settings)) {
		args = append(args, "-c", name+"="+p.settings[name])
	}
	process, err := p.start("postgres", args, syscall.SIGQUIT)
	if err != nil {
		return err
	}
	p.process = process
	ctx, cancel := process.Watch(ctx)
	defer cancel(nil)
	err = Await(ctx, func(ctx context.Context) error {
		conn, err := pgconn.Connect(ctx, p.URL(""))
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
	if err != nil && process.Ended() != nil && strings.Contains(logFrom(p.Log(), size), "pre-existing shared memory block") {
		return errOrphans
	}
	return err
}

func logSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func logFrom(path string, at int64) string {
	b, err := os.ReadFile(path)
	if err != nil || int64(len(b)) < at {
		return ""
	}
	return string(b[at:])
}

// Log is the file that the server's output is appended to.
func (p *Postgres) Log() string { return filepath.Join(p.dir, "postgres.log") }

// Done is closed once the server has ended, until the next Restart.
func (p *Postgres) Done() <-chan struct{} { return p.process.Done() }

// URL is the address of a database, with the password; "" names the one that is there from the start.
func (p *Postgres) URL(database string) string {
	if database == "" {
		database = "postgres"
	}
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(postgresUser, p.password),
		Host:     Address(p.port),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// CreateDatabase makes an empty database and returns its address.
func (p *Postgres) CreateDatabase(ctx context.Context, name string) (string, error) {
	conn, err := pgx.Connect(ctx, p.URL(""))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	return p.URL(name), err
}

// Kill ends the server's first process with kill -9. The others notice that within moments and end by themselves; what was
// committed is there after Restart.
func (p *Postgres) Kill() error { return p.process.Kill() }

// Halt ends the server in order, cutting connections; Restart starts it again.
func (p *Postgres) Halt(ctx context.Context) error { return p.process.Stop(ctx, syscall.SIGINT) }

// Stop ends the server for good. It is fine to stop one that was killed or never started.
func (p *Postgres) Stop(ctx context.Context) error {
	var err error
	if p.process != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = p.Halt(ctx)
		removeInterlock(p.data())
	}
	if p.ports != nil {
		p.ports.Release()
	}
	if p.temporary {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return err
}

// PostgresFor starts a server for a test, which stops with it.
func PostgresFor(t TB, o PostgresOptions) *Postgres {
	t.Helper()
	p, err := StartPostgres(t.Context(), o)
	if err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("PostgreSQL's log ends with:\n%s", Tail(p.Log()))
		}
		if err := p.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("PostgreSQL: %v", err)
		}
	})
	return p
}
