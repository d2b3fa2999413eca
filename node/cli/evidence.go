package cli

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

func evidenceCommand() *cobra.Command {
	var nodeURL, output string
	cmd := &cobra.Command{
		Use:   "evidence",
		Short: "Show what a node has refused of the ledger that its peers offered",
		Long: `Fork proves that the publisher misbehaved, to anyone who has its key: give others the
file of it, which they judge by 'pyrsia evidence verify'. Do not trust the ledger
before you know why; two publishers with one key do this too.
Rollback is a publisher whose disk was rolled back, or whose clock was wrong.
RetiredKey and TwoSuccessors say that somebody else has a key of the ledger: the
node follows only the publisher, or neither of two; pin the key that is the
publisher's. NewKey says that the ledger was handed over to another key, which the
node follows: ask the publisher whether it is its own.
BadSignature and BadData are about the peer that sent it, and harm nobody.

All but the last two are alarms until somebody acknowledges them. The node keeps
each as a file in ledger/evidence of its data folder.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			evidence, err := asking(nodeURL).Evidence(cmd.Context())
			if err != nil {
				return withFlag(err)
			}
			if output == outputJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(evidence)
			}
			if len(evidence) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "none: nothing that was offered had to be refused")
				return err
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(tw, "TIME\tKIND\tACKNOWLEDGED\tPEER\tMESSAGE")
			for _, e := range evidence {
				fmt.Fprintf(tw, "%s\t%s\t%t\t%s\t%s\n", e.Time.Format(time.RFC3339), e.Kind, e.Acknowledged, e.Peer, strings.ReplaceAll(e.Message, "\n", "; "))
			}
			return tw.Flush()
		},
	}
	nodeFlag(cmd, &nodeURL)
	outputFlag(cmd, &output)
	cmd.AddCommand(acknowledgeCommand(), verifyEvidenceCommand())
	return cmd
}

func acknowledgeCommand() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "acknowledge --data DIR",
		Short: "End the alarms of all evidence that the node has kept until now",
		Long: `Says that you have looked at what 'pyrsia evidence' shows: it is kept, and is no
alarm any more, also when another peer brings the same again. What comes later is
an alarm of its own. It takes the node's data folder, for everyone may ask at its
open port. The node may run, and notices at once.

Of a PyrsiaNode, set spec.acknowledgedAt to the time until which you have looked.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dataDir == "" {
				return fmt.Errorf("%w: give --data, the node's data folder", errUsage)
			}
			path := filepath.Join(dataDir, "ledger")
			until := time.Now()
			evidence, err := replica.ReadEvidence(path)
			if err != nil {
				return err
			}
			count := 0
			for _, e := range evidence {
				if !e.Acknowledged {
					count++
				}
				if e.Time.After(until) {
					until = e.Time // this machine's clock was ahead
				}
			}
			if err := replica.Acknowledge(path, until); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "acknowledged: %d of %d, until %s\n", count, len(evidence), until.UTC().Format(time.RFC3339))
			return err
		},
	}
	cmd.Flags().StringVar(&dataDir, "data", "", "the node's data folder")
	return cmd
}
