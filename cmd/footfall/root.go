package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

const (
	groupRun  = "run"
	groupFeed = "feed"
	groupAsk  = "ask"
	groupKeep = "keep"
)

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "footfall",
		Short: "A living picture of every customer",
		Long: `Footfall keeps a living picture of every customer of a retailer: events stream in, every
customer folds its own into behaviour, models score it, and any node answers.

Start with 'footfall demo': one node, fed with a year of retail.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "table" && a.output != "json" {
				return usagef("--output %s: it is table or json", a.output)
			}
			if a.token == "" {
				a.token = a.getenv("FOOTFALL_TOKEN")
			}
			a.started = true
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args: subcommands("audience", "drift", "insights"),
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	node := "127.0.0.1:8081"
	if v := a.getenv("FOOTFALL_NODE"); v != "" {
		node = v
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.node, "node", node, "gRPC address of a node, https://HOST:PORT where it has TLS (FOOTFALL_NODE)")
	flags.StringVar(&a.ca, "ca", a.getenv("FOOTFALL_CA"), "CA of the node's certificate, a file; without it the machine's (FOOTFALL_CA)")
	// Not as the default: --help would show it.
	flags.StringVar(&a.token, "token", "", "token for the node, or @FILE (FOOTFALL_TOKEN)")
	flags.StringVarP(&a.output, "output", "o", "table", "how to print: table or json")
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run:"},
		&cobra.Group{ID: groupFeed, Title: "Feed it:"},
		&cobra.Group{ID: groupAsk, Title: "Ask it:"},
		&cobra.Group{ID: groupKeep, Title: "Look after it:"},
	)
	root.SetHelpCommandGroupID(groupKeep)
	root.SetCompletionCommandGroupID(groupKeep)

	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupRun, a.demoCommand(), a.nodeCommand())
	add(groupFeed, a.replayCommand(), a.publishCommand())
	add(groupAsk, a.customerCommand(), a.featuresCommand(), a.modelsCommand())
	add(groupKeep, a.clusterCommand(), a.shardsCommand(), a.planCommand(), a.healthCommand(), a.deadlettersCommand(), a.verifyCommand(), a.backupCommand(), a.restoreCommand(), a.reshardCommand(), a.benchCommand(), a.tokenCommand(), a.certsCommand(), a.gossipKeyCommand(), a.versionCommand())
	return root
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  footfall version --output json",
		Args:    exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			if a.output == "json" {
				return a.printJSON(map[string]string{"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
			}
			_, err := fmt.Fprintf(a.out, "footfall %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
