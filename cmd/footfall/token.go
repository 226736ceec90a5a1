package main

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"footfall/node/access"
)

func (a *app) tokenCommand() *cobra.Command {
	var (
		roles   []string
		expires time.Duration
		file    string
	)
	cmd := &cobra.Command{
		Use:   "token NAME --roles ROLES",
		Short: "Make a token for a caller",
		Long: `Make a token. It is printed once, and nobody keeps it; nodes know its SHA-256, from the file
that auth.tokens_file names. The roles are ingest (send events), read (ask) and operate (drain,
dead letters, clock); none implies another.

With --file the line is added to that file, and nodes that read it take it within seconds.`,
		Example: `  footfall token shop --roles ingest --file tokens.yaml
  footfall token grafana --roles read --expires 2160h`,
		Args: exactArgs("NAME"),
		RunE: func(_ *cobra.Command, args []string) error {
			set, err := access.ParseRoles(roles)
			if err != nil {
				return usagef("--roles: %v", err)
			}
			var end time.Time
			switch {
			case expires < 0:
				return usagef("--expires %s: it is above 0", expires)
			case expires > 0:
				end = a.now().Add(expires).UTC().Truncate(time.Second)
			}
			secret, t, err := access.NewToken(args[0], set, end)
			if err != nil {
				return usagef("%v", err)
			}
			if file != "" {
				if err := access.AddToken(file, t); err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
			}
			if a.output == "json" {
				out := map[string]any{"name": t.Name, "roles": strings.Split(set.String(), ","), "token": secret, "sha256": hex.EncodeToString(t.Sum[:])}
				if !end.IsZero() {
					out["expires"] = end.Format(time.RFC3339)
				}
				return a.printJSON(out)
			}
			where := "the line for auth.tokens_file:"
			if file != "" {
				where = "added to " + file + ":"
			}
			_, err = fmt.Fprintf(a.out, "%s\n\nThat is the token, and nobody can show it again. %s%s\n%s\n", secret, strings.ToUpper(where[:1]), where[1:], t.Line())
			return err
		},
	}
	cmd.Flags().StringSliceVar(&roles, "roles", nil, "what it may: ingest, read, operate")
	cmd.Flags().DurationVar(&expires, "expires", 0, "how long it is good, such as 2160h; 0: for ever")
	cmd.Flags().StringVar(&file, "file", "", "add it to this tokens file")
	return cmd
}
