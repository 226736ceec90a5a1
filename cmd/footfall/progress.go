package main

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress shows how far something is: a bar that redraws itself on a terminal, and a plain
// line now and then anywhere else. It belongs to one goroutine.
type progress struct {
	w     io.Writer
	what  string
	bar   *progressbar.ProgressBar // nil where w is no terminal
	total int64
	now   func() time.Time
	began time.Time
	said  time.Time
}

// sayEvery is how often a plain line is written.
const sayEvery = 5 * time.Second

// newProgress begins; total is -1 where nobody knows.
func (a *app) newProgress(what string, total int64) *progress {
	p := &progress{w: a.err, what: what, total: total, now: a.now, began: a.now()}
	p.said = p.began
	width, ok := terminal(a.err)
	if !ok {
		return p
	}
	p.bar = progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(a.err),
		progressbar.OptionSetDescription(what),
		progressbar.OptionSetWidth(min(max(width-90, 10), 40)),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionShowCount(),
		progressbar.OptionShowIts(),
		progressbar.OptionSetItsString("events"),
		progressbar.OptionSetTheme(progressbar.Theme{Saucer: "━", SaucerHead: "╸", SaucerPadding: " ", BarStart: "", BarEnd: ""}),
		progressbar.OptionClearOnFinish(),
	)
	return p
}

// at shows that n of the total are done. detail is where that is: a date, a shard.
func (p *progress) at(n int64, detail string) {
	if p.bar != nil {
		p.bar.Describe(p.what + " " + detail)
		_ = p.bar.Set64(n)
		return
	}
	now := p.now()
	if now.Sub(p.said) < sayEvery {
		return
	}
	p.said = now
	elapsed := now.Sub(p.began)
	line := fmt.Sprintf("%s %s: %s", p.what, detail, count(n))
	if p.total > 0 {
		line += fmt.Sprintf(" of %s (%d%%)", count(p.total), 100*n/p.total)
	}
	if s := elapsed.Seconds(); s > 0 && n > 0 {
		line += fmt.Sprintf(", %s/s", rate(float64(n)/s))
		if p.total > n {
			line += ", " + ago(time.Duration(float64(elapsed)*float64(p.total-n)/float64(n))) + " left"
		}
	}
	fmt.Fprintln(p.w, line)
}

// end takes the bar away.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Exit()
	}
}
