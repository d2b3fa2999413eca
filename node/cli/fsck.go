package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"filippo.io/torchwood"
	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
	"github.com/pyrsia/pyrsia-operator/node/internal/store"
	"github.com/pyrsia/pyrsia-operator/node/ledger"
	"github.com/pyrsia/pyrsia-operator/node/ledger/replica"
)

// progressInterval is how often something long says how far it is.
const progressInterval = 2 * time.Second

// fsckResult is the answer of 'pyrsia fsck -o json'.
type fsckResult struct {
	// Blocks is the size of the ledger; -1 if not all blocks are there and proven.
	Blocks   int64             `json:"blocks"`
	Blobs    int               `json:"blobs"`
	Problems []replica.Problem `json:"problems"`
}

func fsckCommand() *cobra.Command {
	var c replica.Check
	var data, keyFile, output string
	var from []string
	cmd := &cobra.Command{
		Use:   "fsck --data DIR --key VKEY",
		Short: "Check the ledger and the content of a node that does not run",
		Long: `Checks every file against what the ledger's signed checkpoint commits to:
checkpoint, entry bundles, hash tiles, index, key rotations, a publisher's state,
and each blob of the store against its digest.

With --repair, what can be made again is: hash tiles and the index from the
blocks, the state from the checkpoint. Damaged blobs are moved to the store's
quarantine, so that the node fetches them again. Blocks and the checkpoint itself
are taken from the copies at --from, verified like everything from a peer.

Exit status 0: all is well, or was repaired.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if data == "" || (c.Key == "") == (keyFile == "") {
				return fmt.Errorf("%w: give --data, and --key or a publisher's --signing-key", errUsage)
			}
			if keyFile != "" {
				skey, err := durable.Read(keyFile)
				if err != nil {
					return fmt.Errorf("reading the signing key: %w", err)
				}
				first, _, _ := strings.Cut(strings.TrimSpace(string(skey)), "\n")
				if _, c.Key, err = ledger.NewSigner(first); err != nil {
					return err
				}
			}
			c.Path, c.Sources = filepath.Join(data, "ledger"), sources(from)
			result, err := fsck(cmd, &c, filepath.Join(data, "store"))
			if err != nil {
				return err
			}
			if err := result.print(cmd.OutOrStdout(), output); err != nil {
				return err
			}
			return result.err(c.Repair)
		},
	}
	f := cmd.Flags()
	f.StringVar(&data, "data", "", "the node's data folder")
	f.StringVar(&c.Key, "key", "", "verifier key of the ledger")
	f.StringVar(&keyFile, "signing-key", "", "file with the publisher's signing key, in place of --key")
	f.BoolVar(&c.Repair, "repair", false, "repair what can be repaired")
	f.StringArrayVar(&from, "from", nil, "URL of the open port of a node that has a copy; may be repeated")
	outputFlag(cmd, &output)
	return cmd
}

// sources are the ledgers at URLs.
func sources(urls []string) (out []torchwood.TileReader) {
	for _, u := range urls {
		out = append(out, asking(u))
	}
	return out
}

func fsck(cmd *cobra.Command, c *replica.Check, storeRoot string) (r fsckResult, err error) {
	fmt.Fprintln(cmd.ErrOrStderr(), "checking the ledger ...")
	if r.Problems, r.Blocks, err = c.Run(cmd.Context()); err != nil {
		return r, err
	}
	for i := range r.Problems {
		r.Problems[i].Path = filepath.Join("ledger", r.Problems[i].Path)
	}
	said := time.Now()
	damage, blobs, err := store.Fsck(cmd.Context(), storeRoot, c.Repair, func(n int) {
		if time.Since(said) > progressInterval {
			said = time.Now()
			fmt.Fprintf(cmd.ErrOrStderr(), "checking the store: %d blobs ...\n", n)
		}
	})
	if err != nil {
		return r, err
	}
	r.Blobs = blobs
	for _, d := range damage {
		p := replica.Problem{Path: filepath.Join("store", d.Path), Message: d.Cause, Repaired: d.Repaired}
		if !d.Repaired {
			p.Advice = "run again with --repair: it is moved away, and fetched again when it is needed"
		}
		r.Problems = append(r.Problems, p)
	}
	return r, nil
}

func (r *fsckResult) print(w io.Writer, output string) error {
	if output == outputJSON {
		if r.Problems == nil {
			r.Problems = []replica.Problem{}
		}
		return json.NewEncoder(w).Encode(r)
	}
	if len(r.Problems) > 0 {
		tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
		fmt.Fprintln(tw, "FILE\tREPAIRED\tPROBLEM\tADVICE")
		for _, p := range r.Problems {
			fmt.Fprintf(tw, "%s\t%t\t%s\t%s\n", p.Path, p.Repaired, strings.ReplaceAll(p.Message, "\n", "; "), p.Advice)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%d blocks, %d blobs, %d problems\n", max(r.Blocks, 0), r.Blobs, len(r.Problems))
	return err
}

// err is why the node should not be started.
func (r *fsckResult) err(repair bool) error {
	left := 0
	for _, p := range r.Problems {
		if !p.Repaired {
			left++
		}
	}
	switch {
	case left == 0:
		return nil
	case repair:
		return fmt.Errorf("%d problems could not be repaired", left)
	default:
		return fmt.Errorf("%d problems", left)
	}
}

func restoreCommand() *cobra.Command {
	var data, keyFile, nextKeyFile string
	var from []string
	var bestEffort bool
	cmd := &cobra.Command{
		Use:   "restore --data DIR --signing-key FILE --from URL",
		Short: "Restore the ledger of a publisher whose disk was lost, from mirrors' copies",
		Long: `Copies the ledger from the nodes at --from, verified by the publisher's own key,
so that the publisher goes on at the next height. Give every mirror that you can
reach: the largest copy wins, and a block that no copy has would be signed a
second time. A name with several addresses, such as a headless Service, stands for
all the nodes behind it. A ledger in DIR that is behind is completed; one that contradicts a
copy is refused. Content is not restored: it is published again when it is asked
for, under the blocks that are there.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if data == "" || keyFile == "" || len(from) == 0 {
				return fmt.Errorf("%w: give --data, --signing-key and --from", errUsage)
			}
			skey, err := durable.Read(keyFile)
			if err == nil && nextKeyFile != "" {
				var next []byte
				next, err = durable.Read(nextKeyFile)
				skey = slices.Concat(skey, []byte("\n"), next)
			}
			if err != nil {
				return fmt.Errorf("reading the signing key: %w", err)
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "copying and verifying the ledger ...")
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			path := filepath.Join(data, "ledger")
			blocks, err := replica.Restore(cmd.Context(), path, string(skey), sources(spread(cmd.Context(), from)), log)
			if errors.Is(err, replica.ErrNoCopy) && bestEffort && replica.Exists(path) {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "going on with the ledger that is here: %v\n", err)
				return err
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "restored: %d blocks; the next one is %d\n", blocks, blocks)
			return err
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "the publisher's data folder")
	cmd.Flags().StringVar(&keyFile, "signing-key", "", "file with the publisher's signing key")
	cmd.Flags().StringVar(&nextKeyFile, "next-signing-key", "", "file with the key to which the ledger is being handed over, if it is")
	cmd.Flags().StringArrayVar(&from, "from", nil, "URL of the open port of a node that has a copy; may be repeated")
	cmd.Flags().BoolVar(&bestEffort, "best-effort", false, "succeed if no copy is reached, where there is a ledger already")
	return cmd
}

// maxSpread bounds the nodes behind one name.
const maxSpread = 64

// spread replaces each http URL by those of all the addresses of its name.
func spread(ctx context.Context, urls []string) (out []string) {
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" {
			out = append(out, s) // TLS needs the name
			continue
		}
		ips, err := net.DefaultResolver.LookupHost(ctx, u.Hostname())
		if err != nil {
			out = append(out, s) // it fails again, and says so
			continue
		}
		for _, ip := range ips[:min(len(ips), maxSpread)] {
			each := *u
			each.Host = net.JoinHostPort(ip, cmp.Or(u.Port(), "80"))
			out = append(out, each.String())
		}
	}
	return out
}
