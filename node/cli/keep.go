package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/internal/containerd"
	"github.com/pyrsia/pyrsia-operator/node/internal/portproof"
)

// keepEvery is how often it is looked whether what was set up is still there.
const keepEvery = 15 * time.Second

// keeper keeps what install has set up.
type keeper struct {
	setup  containerd.Setup
	mirror string
	mode   containerd.Mode
	port   portQuestion
	from   string            // where certs.d is mounted from
	memory containerd.Memory // of what install has put aside
}

// containerdKeep is for beside a mirror that runs: tools that manage a machine's
// files, and upgrades, remove or overwrite what they do not know.
func containerdKeep(s *containerd.Setup) *cobra.Command {
	var k keeper
	var mode string
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "keep",
		Short: "Write again what install wrote when it is changed, until ended",
		Long: `Ends with the exit status of install if that is refused, and with 1 if another
folder has taken the place of the mounted --certs-d: whoever starts it again
mounts that one.`,
		Hidden: true,
		Args:   exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			k.setup, k.mode, k.memory = *s, containerd.Mode(mode), containerd.Memory{}
			if k.from, err = s.MountedFrom(); err != nil {
				return err
			}
			for {
				if err := k.look(cmd); err != nil {
					return err
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(every):
				}
			}
		},
	}
	f := cmd.Flags()
	f.StringVar(&k.mirror, "mirror", "http://127.0.0.1:5001", "URL of the node's mirror port")
	f.StringVar(&mode, "mode", string(containerd.Strict), "the --mode of install")
	f.DurationVar(&every, "every", keepEvery, "how often to look")
	k.port.flags(cmd)
	return cmd
}

// look restores what was changed. It returns only errors that end the keeper:
// others are logged, and retried.
func (k keeper) look(cmd *cobra.Command) error {
	from, err := k.setup.MountedFrom()
	if err != nil {
		return err
	}
	if from != k.from {
		return fmt.Errorf("another folder has taken the place of %s: it is set up at the next start", k.setup.CertsD)
	}
	err = k.memory.Hold(k.setup)
	file := ""
	if err == nil {
		file, err = k.setup.Drifted(k.mirror, k.mode)
	}
	if err == nil && file == "" {
		return nil
	}
	if err == nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s was changed or removed by somebody else: it is written again.\n", file)
		err = k.install(cmd)
	}
	if _, owned := errors.AsType[*containerd.OwnedError](err); owned {
		return err
	}
	if _, refused := errors.AsType[*containerd.RefusedError](err); refused {
		return err
	}
	if wrong, ok := errors.AsType[*portproof.Error](err); ok && wrong.Foreign {
		return err
	}
	if err != nil && cmd.Context().Err() == nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "pyrsia:", err)
	}
	return nil
}

func (k keeper) install(cmd *cobra.Command) error {
	if err := k.port.ask(cmd, k.setup, k.mirror); err != nil {
		return err
	}
	_, err := k.setup.Install(k.mirror, k.mode)
	return err
}
