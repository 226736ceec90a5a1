package docs_test

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

var (
	link    = regexp.MustCompile(`\[([^\]]*)\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	// inCheckout is a path that begins with a folder of the checkout, or names a file at its top.
	inCheckout = regexp.MustCompile(`^(actors|behavior|cmd|datasets|docs|inference|messages|models|node|scripts|store|training)/[\w./-]*$|^(Makefile|go\.mod|\.golangci\.yml)$`)
)

func TestLinksAndPaths(t *testing.T) {
	for _, doc := range documents(t) {
		text := read(t, doc)
		for _, m := range link.FindAllStringSubmatch(prose(text), -1) {
			if strings.Contains(m[2], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(m[2], "#")
			target := doc
			if file != "" {
				target = filepath.Join(filepath.Dir(doc), file)
				_, err := os.Stat(target)
				require.NoError(t, err, "%s links to %s", doc, m[2])
			}
			if anchor != "" {
				require.Contains(t, anchors(read(t, target)), anchor, "%s links to %s", doc, m[2])
			}
			// A test that is named as a link is in the file that it links to.
			if strings.HasPrefix(strings.Trim(m[1], "`"), "Test") {
				require.Contains(t, read(t, target), "\nfunc "+strings.Trim(m[1], "`")+"(", "%s: %s", doc, m[0])
			}
		}
		for _, m := range code.FindAllStringSubmatch(prose(text), -1) {
			if inCheckout.MatchString(m[1]) {
				_, err := os.Stat(filepath.Join(root, m[1]))
				require.NoError(t, err, "%s names %s", doc, m[1])
			}
		}
	}
}

// anchors are those that the headings of a document get.
func anchors(text string) []string {
	var all []string
	for _, m := range heading.FindAllStringSubmatch(prose(text), -1) {
		all = append(all, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, m[1]))
	}
	return all
}

func TestMakeTargets(t *testing.T) {
	makefile := read(t, filepath.Join(root, "Makefile"))
	named := regexp.MustCompile("(?m)(?:`(?:[A-Z]+=\\w+ )*|^)make ([a-z-]+)")
	found := 0
	for _, doc := range documents(t) {
		for _, m := range named.FindAllStringSubmatch(read(t, doc), -1) {
			require.Regexp(t, `(?m)^`+m[1]+`:`, makefile, "%s: %s", doc, m[0])
			found++
		}
	}
	require.Greater(t, found, 5)
}

// TestCommands holds every call of the command line in the documents, and each of its flags, to the help of the program.
func TestCommands(t *testing.T) {
	bin := filepath.Join(build(t), "footfall")
	call := regexp.MustCompile("(?m)(?:[`$ (]|^)(?:bin/)?footfall ([a-z][^`\n|;#)']*)")
	flag := regexp.MustCompile(`(?:^| )(--[a-z][a-z-]*)`)
	help := map[string]string{}
	found := map[string]bool{}
	for _, doc := range documents(t) {
		text := read(t, doc)
		var calls []string
		for _, m := range fence.FindAllStringSubmatch(text, -1) {
			if m[1] == "console" || m[1] == "sh" {
				calls = append(calls, m[2])
			}
		}
		for _, m := range code.FindAllStringSubmatch(prose(text), -1) {
			calls = append(calls, m[1])
		}
		for _, text := range calls {
			for _, m := range call.FindAllStringSubmatch("\n"+text, -1) {
				words := strings.Fields(m[1])
				name := words[0]
				if len(words) > 1 && (name == "deadletters" || name == "models" && words[1][0] != '-' || name == "customer" && words[1] == "export") {
					name += " " + words[1]
				}
				if name == "node" { // its flags are those of the configuration
					continue
				}
				if help[name] == "" {
					help[name] = output(t, bin, append(strings.Fields(name), "--help")...)
					require.Contains(t, help[name], "footfall "+name, "%s: footfall %s", doc, m[1])
				}
				for _, f := range flag.FindAllStringSubmatch(m[1], -1) {
					require.Contains(t, help[name], " "+f[1]+" ", "%s: footfall %s", doc, m[1])
				}
				found[words[0]] = true
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+) +[A-Z]`).FindAllStringSubmatch(output(t, bin, "--help"), -1) {
		if name := m[1]; name != "node" && name != "help" && name != "completion" {
			require.True(t, found[name], "no document tells of footfall %s", name)
		}
	}
}

// Nothing that only one machine has.
func TestNoAbsolutePaths(t *testing.T) {
	home := regexp.MustCompile(`(^|[\s"(=])/(work|tmp|home|root|usr)/`)
	for _, doc := range documents(t) {
		require.NotRegexp(t, home, read(t, doc), path.Base(doc))
	}
}
