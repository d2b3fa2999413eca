package cli

import (
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyrsia/pyrsia-operator/node/internal/socketproxy"
)

func frontendCommand() *cobra.Command {
	var c socketproxy.Config
	cmd := &cobra.Command{
		Use:   "frontend",
		Short: "Hold a mirror's port while the mirror restarts or is replaced",
		Long: `Listens for container clients and passes their connections on to the mirror
whose --mirror-addr is unix:DIR/mirror.sock. While the mirror does not run, its
clients wait, once for --wait. A second one with the same DIR takes the listening socket
over from the first, which is never closed: start it, then end the first.`,
		Example: `  pyrsia frontend --listen 127.0.0.1:5001 --dir /run/pyrsia
  pyrsia node --role Mirror --mirror-addr unix:/run/pyrsia/mirror.sock ...`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			return socketproxy.Run(cmd.Context(), c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Addr, "listen", "127.0.0.1:5001", "IP:PORT for container clients")
	f.StringArrayVar(&c.Former, "former", nil, "IP:PORT at which container clients may still come, beside --listen; may be given again")
	f.StringVar(&c.Dir, "dir", "", "folder that it shares with the mirror alone")
	f.DurationVar(&c.Wait, "wait", 25*time.Second, "how long a mirror that does not run is waited for; containerd gives a request up after 30s")
	f.DurationVar(&c.PortWait, "port-wait", time.Minute, "how long to wait for the port while another process has it")
	f.DurationVar(&c.Succession, "succession", 10*time.Second, "how long to wait for the next one at the end")
	f.DurationVar(&c.Drain, "drain", 2*time.Minute, "how long connections may go on at the end")
	f.StringVar(&c.Canary, "canary", "", "name of the mirror, such as the UID of its PyrsiaNode, to answer for the image NAME.canary.pyrsia.invalid/canary, by which it is proven that containerd asks it")
	_ = cmd.MarkFlagRequired("dir") // the flag exists
	return cmd
}
