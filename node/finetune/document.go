package finetune

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"footfall/node/quality"
)

const header = `The contract of this model: what it is fed, what it answers, and how well it did. It was fine-tuned from the version
that parent names: data are the rows that it was trained on since, evaluation is on rows of them that it did not see, and
parent_* is what the parent says of the same rows. ece is over ten equally wide bins.`

// document is model.yaml of the new version: the parent's, but for what is new. Publishing gives it
// its number.
func (j *job) document(s split, before, after quality.Measures) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(j.dir, "model.yaml"))
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("model.yaml of %s %d is no mapping: %w", j.contract.Name, j.contract.Version, err)
	}
	root := doc.Content[0]
	doc.HeadComment, root.HeadComment = header, ""
	root.Content[0].HeadComment = ""
	first, last := j.rows.span(s.train)
	from, to := j.rows.span(s.judge)
	set(root, "version", whole(j.contract.Version+1))
	set(root, "parent", whole(j.contract.Version))
	set(root, "data", mapping(
		"source", scalar(j.source),
		"digest", scalar(j.rows.digest(s.train)),
		"rows", whole(len(s.train)),
		"days", &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle, Content: []*yaml.Node{whole(int(first)), whole(int(last))}},
	))
	set(root, "evaluation", mapping(
		"auc", figure(after.AUC), "average_precision", figure(after.AP), "log_loss", figure(after.LogLoss), "ece", figure(after.ECE),
		"base_rate", figure(after.Base), "rows", whole(after.Rows), "first_day", whole(int(from)), "last_day", whole(int(to)),
		"parent_auc", figure(before.AUC), "parent_average_precision", figure(before.AP), "parent_log_loss", figure(before.LogLoss), "parent_ece", figure(before.ECE),
	))
	set(root, "trained_with", mapping(
		"keras", scalar(j.contract.TrainedWith.Keras),
		"tensorflow", scalar(strings.TrimPrefix(j.runner.Version(), "TensorFlow ")),
		"seed", whole(int(j.seed)),
	))
	set(root, "created", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!timestamp", Value: j.now().UTC().Format(time.RFC3339)})
	remove(root, "files")
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, err
	}
	return out.Bytes(), enc.Close()
}

// set gives a mapping's key a value, at the end where it is new.
func set(m *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			m.Content[i+1] = value
			return
		}
	}
	m.Content = append(m.Content, scalar(key), value)
}

func remove(m *yaml.Node, key string) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			m.Content = append(m.Content[:i], m.Content[i+2:]...)
			return
		}
	}
}

func mapping(pairs ...any) *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	for i := 0; i < len(pairs); i += 2 {
		m.Content = append(m.Content, scalar(pairs[i].(string)), pairs[i+1].(*yaml.Node)) //nolint:forcetypeassert // the calls above
	}
	return m
}

func scalar(text string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(text)
	return n
}

func whole(v int) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(v)}
}

// figure is a measure with five digits.
func figure(v float64) *yaml.Node {
	text := strconv.FormatFloat(math.Round(v*1e5)/1e5, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!float", Value: text}
}
