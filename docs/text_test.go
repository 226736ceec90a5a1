package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// documents are all Markdown files of this folder and of the checkout's top, by their path from here.
func documents(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, glob := range []string{"*.md", "decisions/*.md", root + "/*.md"} {
		files, err := filepath.Glob(glob)
		require.NoError(t, err)
		all = append(all, files...)
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

var fence = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")

// blocks returns the fenced blocks of a language.
func blocks(text, language string) []string {
	var all []string
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		if m[1] == language {
			all = append(all, m[2])
		}
	}
	return all
}

// prose is the text without its fenced blocks.
func prose(text string) string { return fence.ReplaceAllString(text, "") }

// section is what stands below a heading, up to the next one of any level.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, after, ok := strings.Cut(text, "\n"+heading+"\n")
	require.True(t, ok, "there is no %q", heading)
	body, _, _ := strings.Cut(after, "\n#")
	return body
}

var code = regexp.MustCompile("`([^`]+)`")

// firstColumn returns what stands as code in the first column of the tables of a text.
func firstColumn(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cell := strings.SplitN(line, "|", 3)[1]
		for _, m := range code.FindAllStringSubmatch(cell, -1) {
			all = append(all, m[1])
		}
	}
	return all
}
