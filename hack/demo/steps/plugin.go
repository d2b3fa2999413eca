package steps

import (
	"context"
	"fmt"
	"strings"
)

// askByKubectl asks the publisher and a mirror by the plugin of kubectl.
func askByKubectl(ctx context.Context, w *Env) error {
	a, err := w.artifact(ctx, w.small())
	if err != nil {
		return err
	}
	for _, ask := range []struct {
		args []string
		want string
	}{
		{[]string{"status"}, "Publisher, ready"},
		{[]string{"--pyrsianode", "mirror", "log", w.small()}, a.Spec.Digest},
		{[]string{"log", a.Spec.Digest}, a.Spec.Image},
		{[]string{"verify", w.small() + "@" + a.Spec.Digest}, fmt.Sprintf("is block %d of", a.Status.Block.Height)},
	} {
		argv := append([]string{"go", "run", "./cmd/kubectl-pyrsia"}, ask.args...)
		fmt.Fprintf(w.Out, "$ %s\n", shellQuote(argv))
		out, err := w.Output(ctx, argv...)
		if err != nil {
			return err
		}
		fmt.Fprint(w.Out, out)
		if !strings.Contains(out, ask.want) {
			return fmt.Errorf("kubectl pyrsia %s does not say %q", strings.Join(ask.args, " "), ask.want)
		}
	}
	if out, err := w.Output(ctx, "go", "run", "./cmd/kubectl-pyrsia", "verify", w.small()+"@sha256:"+strings.Repeat("0", 64)); err == nil {
		return fmt.Errorf("kubectl pyrsia verifies an image that nobody published: %s", out)
	}
	return nil
}
