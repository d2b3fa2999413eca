package containerd

import (
	"fmt"

	"github.com/pyrsia/pyrsia-operator/node/internal/durable"
)

// Installed are all folders whose pulls go to a Pyrsia node, whoever owns them.
func (s Setup) Installed() (out []State, err error) {
	taken, err := s.kept()
	if err != nil {
		return nil, err
	}
	for _, name := range taken {
		current, _, err := read(s.hosts(name))
		if err != nil {
			return out, err
		}
		if h, ours := parse(current); ours {
			out = append(out, State{name, h.mode, h.mirror, h.owner})
		}
	}
	return out, nil
}

// State is how one folder of certs.d is set up.
type State struct {
	Registry string // the folder's name
	Mode     Mode   // empty if its pulls do not go to a Pyrsia node
	Mirror   string // URL
	Owner    string // empty if none was recorded
}

// Status tells for each folder of the registries whether its pulls go to a
// Pyrsia node.
func (s Setup) Status() ([]State, error) {
	var out []State
	for _, r := range s.Registries {
		if err := checkName(r); err != nil {
			return nil, err
		}
	}
	for _, f := range folders(s.Registries) {
		current, _, err := read(s.hosts(f.name))
		if err != nil {
			return nil, fmt.Errorf("reading containerd's set-up for %s: %w", f.registry, err)
		}
		h, _ := parse(current)
		out = append(out, State{f.name, h.mode, h.mirror, h.owner})
	}
	return out, nil
}

// read reads a file that may not be there.
func read(name string) (content []byte, exists bool, err error) { return durable.ReadIfThere(name) }
