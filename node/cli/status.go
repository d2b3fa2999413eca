package cli

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/report"
)

func statusCommand() *cobra.Command {
	var nodeURL, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how a node is: its ledger, its peers, its content and what is on its way",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := asking(nodeURL).Status(cmd.Context())
			if err != nil {
				return withFlag(err)
			}
			if output == outputJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
			}
			return report.Status(cmd.OutOrStdout(), s)
		},
	}
	nodeFlag(cmd, &nodeURL)
	cmd.Flags().StringVarP(&output, "output", "o", outputTable, "table or json")
	return cmd
}

func peersCommand() *cobra.Command {
	var nodeURL, output string
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "Show the peers that a node is connected to, and what came from each",
		Long: `Lists the connected peers of a node. VIA is how content comes from a peer: by
plain HTTP where its port can be reached, else over libp2p. A peer that was slow
is asked after the others, and one that sent wrong content is banned for a while.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			peers, err := asking(nodeURL).Peers(cmd.Context())
			if err != nil {
				return withFlag(err)
			}
			if output == outputJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(peers)
			}
			return report.Peers(cmd.OutOrStdout(), peers)
		},
	}
	nodeFlag(cmd, &nodeURL)
	cmd.Flags().StringVarP(&output, "output", "o", outputTable, "table or json")
	return cmd
}
