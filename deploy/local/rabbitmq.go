package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrNoRabbitMQ says that no RabbitMQ is installed, and what to do.
var ErrNoRabbitMQ = errors.New("RabbitMQ is missing: run make rabbitmq-install")

// rabbitmq is an installation of RabbitMQ.
type rabbitmq struct {
	// home has the folder sbin with the scripts. Those that are on PATH may be wrappers that switch to a user of the machine's own broker.
	home    string
	version string
	// epmd is Erlang's port mapper.
	epmd string
}

// debianRabbitMQ is a variable for tests.
var debianRabbitMQ = "/usr/lib/rabbitmq/lib/rabbitmq_server-*"

// findRabbitMQ looks where Debian's package puts it, and beside what PATH has.
func findRabbitMQ() (rabbitmq, error) {
	homes, _ := filepath.Glob(debianRabbitMQ) // the pattern is a good one
	slices.Reverse(homes)
	if path, err := exec.LookPath("rabbitmq-server"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			homes = append(homes, filepath.Dir(filepath.Dir(path)))
		}
	}
	for _, home := range homes {
		r := rabbitmq{home: home}
		// A wrapper has no such neighbours.
		if _, err := os.Stat(r.script("rabbitmq-env")); err != nil {
			continue
		}
		apps, _ := filepath.Glob(filepath.Join(home, "plugins", "rabbit-*"))
		if len(apps) > 0 {
			r.version = strings.TrimSuffix(strings.TrimPrefix(filepath.Base(apps[0]), "rabbit-"), ".ez")
		}
		epmd, err := exec.LookPath("epmd")
		if err != nil {
			return rabbitmq{}, fmt.Errorf("no epmd, which comes with Erlang: %w", err)
		}
		r.epmd = epmd
		return r, nil
	}
	return rabbitmq{}, ErrNoRabbitMQ
}

func (r rabbitmq) script(name string) string { return filepath.Join(r.home, "sbin", name) }

// nodeName is the same for every broker, since each has a port mapper of its own; the data belong to it.
const nodeName = "footfall@localhost"

// env is the whole environment of the broker and of its tools: nothing of the machine's own broker is in it.
func (b *Broker) env() []string {
	f := b.files
	return []string{
		"PATH=" + os.Getenv("PATH"),
		"LANG=C.UTF-8",
		"HOME=" + f.home(),
		"TMPDIR=" + os.TempDir(),
		"ERL_EPMD_PORT=" + strconv.Itoa(b.port.epmd),
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"ERL_CRASH_DUMP_SECONDS=0",
		"RABBITMQ_NODENAME=" + nodeName,
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
		"RABBITMQ_NODE_PORT=" + strconv.Itoa(b.port.amqp),
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(b.port.dist),
		"RABBITMQ_CONFIG_FILE=" + f.config(),
		"RABBITMQ_ADVANCED_CONFIG_FILE=" + f.path("advanced.config"),
		"RABBITMQ_CONF_ENV_FILE=" + f.path("rabbitmq-env.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + f.plugins(),
		"RABBITMQ_GENERATED_CONFIG_DIR=" + f.path("config"),
		"RABBITMQ_SCHEMA_DIR=" + f.path("schema"),
		"RABBITMQ_MNESIA_BASE=" + f.data(),
		"RABBITMQ_PID_FILE=" + f.path("pid"),
		"RABBITMQ_LOG_BASE=" + f.dir,
		"RABBITMQ_LOGS=-",
		// So that the script becomes the broker, and its process is the broker's.
		"RUNNING_UNDER_SYSTEMD=true",
		// Small, and not bound to cores that others use, too. -start_epmd: there is one.
		"RABBITMQ_SCHEDULER_BIND_TYPE=u",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2 -start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
		"RABBITMQ_CTL_ERL_ARGS=+S 1:1 -start_epmd false",
	}
}

// Control runs rabbitmqctl for this broker, such as Control(ctx, "set_vm_memory_high_watermark", "0"), and returns what it
// prints. It takes a second or two.
func (b *Broker) Control(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, b.found.script("rabbitmqctl"), append([]string{"--quiet"}, args...)...)
	cmd.Env, cmd.Dir = b.env(), b.files.dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("rabbitmqctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()+string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

// Eval has the broker evaluate an Erlang expression, and returns what it prints of it.
func (b *Broker) Eval(ctx context.Context, expression string) (string, error) {
	return b.Control(ctx, "eval", expression)
}

// Settle has the broker write down which queues it has, which it else does twice a second. A quorum queue or stream that is
// declared and not written down when the broker is killed is damaged from then on, with what was confirmed in it: it is
// there, and takes nothing. Tests that declare and then Kill call it in between.
func (b *Broker) Settle(ctx context.Context) error {
	_, err := b.Eval(ctx, "[ok = dets:sync(Table) || Table <- dets:all()].")
	return err
}

// VHost makes a further virtual host, where the users have the permissions that they have in "/", and returns where the first
// one logs in there: names in it are free again, so that tests can share a broker.
func (b *Broker) VHost(ctx context.Context, name string) (string, error) {
	if _, err := b.Control(ctx, "add_vhost", name); err != nil {
		return "", err
	}
	for _, u := range b.options.Users {
		if !u.mayDoAnything() {
			continue
		}
		if _, err := b.Control(ctx, "set_permissions", "--vhost", name, u.Name, u.Configure, u.Write, u.Read); err != nil {
			return "", err
		}
	}
	return b.amqpURL("amqp", b.options.Users[0].Name, b.port.amqp, name), nil
}
