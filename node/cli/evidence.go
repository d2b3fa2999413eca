package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/ledger"
)

func evidenceCommand() *cobra.Command {
	var nodeURL, output string
	cmd := &cobra.Command{
		Use:   "evidence",
		Short: "Show what a node has refused of the ledger that its peers offered",
		Long: `Fork and Rollback prove that the publisher misbehaved, to anyone who has its key:
both signed checkpoints are in '-o json'. Do not trust the ledger before you know
why; two publishers with one key, or a disk that was rolled back, do this too.
BadSignature and BadData are about the peer that sent it, and harm nobody.

The node keeps each as a file in ledger/evidence of its data folder. Remove the
files when the matter is settled.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			var evidence []ledger.Evidence
			if err := get(cmd.Context(), nodeURL, "/api/v1/evidence", &evidence); err != nil {
				return err
			}
			if output == outputJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(evidence)
			}
			if len(evidence) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "none: nothing that was offered had to be refused")
				return err
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(tw, "TIME\tKIND\tPEER\tMESSAGE")
			for _, e := range evidence {
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", e.Time.Format(time.RFC3339), e.Kind, e.Peer, strings.ReplaceAll(e.Message, "\n", "; "))
			}
			return tw.Flush()
		},
	}
	nodeFlag(cmd, &nodeURL)
	outputFlag(cmd, &output)
	return cmd
}
