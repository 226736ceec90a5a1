package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"footfall/deploy/local"
)

// prometheus is the server with the rules that the checkout has, and targets of its own.
type prometheus struct {
	process *local.Process
	// targets is the file that it takes its targets from, and looks at again when that changes.
	targets string
	// client and scheme are for the nodes.
	client *http.Client
	scheme string

	mu   sync.Mutex // guards list, and the file
	list []target
}

// target is a server that is scraped, under the name that dashboards and alerts call it by.
type target struct{ address, labels string }

// startPrometheus starts the program at path. The configuration is the one that is deployed anywhere else: only its targets are
// this cluster's.
func (r *running) startPrometheus(ctx context.Context, path string) (*prometheus, error) {
	dir := filepath.Join(r.dir, "prometheus")
	if err := os.MkdirAll(filepath.Join(dir, "rules"), 0o700); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(r.rules, "rules", "*.yml"))
	if err != nil {
		return nil, err
	}
	for _, from := range append(files, filepath.Join(r.rules, "prometheus.yml")) {
		name, err := filepath.Rel(r.rules, from)
		if err != nil {
			return nil, err
		}
		text, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		if r.secrets != nil && name == "prometheus.yml" {
			secured, err := r.secrets.scrape(string(text))
			if err != nil {
				return nil, err
			}
			text = []byte(secured)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return nil, err
		}
	}
	p := &prometheus{targets: filepath.Join(dir, "targets.yml"), client: r.client, scheme: r.scheme}
	if u := r.broker.PrometheusURL(); u != "" {
		address, _, _ := strings.Cut(strings.TrimPrefix(u, "http://"), "/")
		p.list = append(p.list, target{address, "job: rabbitmq, instance: rabbitmq, __scheme__: http"})
	}
	for _, n := range r.nodes[:r.options.nodes] {
		p.list = append(p.list, n.target())
	}
	if err := p.write(); err != nil {
		return nil, err
	}
	if p.process, err = local.StartProcess(local.Command{
		Title: "Prometheus", Path: path, Env: os.Environ(), Dir: dir, Log: r.log("prometheus"),
		Args: []string{"--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=" + r.promAddr},
	}); err != nil {
		return nil, err
	}
	ctx, stop := p.process.Watch(ctx)
	defer stop(nil)
	if err := local.Await(ctx, func(ctx context.Context) error {
		return answers(ctx, http.DefaultClient, "http://"+r.promAddr+"/-/ready")
	}); err != nil {
		_ = p.process.Kill() // that it did not start is what matters
		return nil, err
	}
	return p, nil
}

func (n *node) target() target { return target{n.http, "instance: " + n.name} }

// join has a node scraped once it answers: one that somebody may start later is not missed before.
func (p *prometheus) join(ctx context.Context, n *node) {
	const every = time.Second
	t := time.NewTicker(every)
	defer t.Stop()
	for answers(ctx, p.client, p.scheme+n.http+"/healthz") != nil {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, n.target())
	if err := p.write(); err != nil {
		fmt.Fprintf(os.Stderr, "footfall: Prometheus does not know of %s: %v\n", n.name, err)
	}
}

// write replaces the file of the targets in one step.
func (p *prometheus) write() error {
	var b strings.Builder
	for _, t := range p.list {
		fmt.Fprintf(&b, "- {targets: [%q], labels: {%s}}\n", t.address, t.labels)
	}
	part := p.targets + ".part"
	if err := os.WriteFile(part, []byte(b.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(part, p.targets)
}

// answers asks for a page.
func answers(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close() // nobody reads it
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}
