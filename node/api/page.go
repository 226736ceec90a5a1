package api

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page
	"encoding/base64"
	"fmt"
	"html/template"
	"strings"
)

//go:embed index.html
var indexHTML string

// indexPage is the page at /: what a node knows now, asked by a script every two seconds, and a
// customer by ID. It needs nothing but this node. The policy lets its own style and script run,
// by their digests, and nothing else.
func indexPage(id Identity) (page []byte, policy string, err error) {
	t, err := template.New("index.html").Parse(indexHTML)
	if err != nil {
		return nil, "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, id); err != nil {
		return nil, "", fmt.Errorf("index.html: %w", err)
	}
	policy = fmt.Sprintf("default-src 'none'; style-src '%s'; script-src '%s'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		digestOf(b.String(), "style"), digestOf(b.String(), "script"))
	return b.Bytes(), policy, nil
}

// digestOf is that of an element's text as a policy names it.
func digestOf(page, element string) string {
	_, text, _ := strings.Cut(page, "<"+element+">")
	text, _, _ = strings.Cut(text, "</"+element+">")
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}
