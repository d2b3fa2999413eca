package policy

import (
	"fmt"
	"strings"

	"github.com/pyrsia/pyrsia-operator/node/ledger/cosign"
)

// Member is a storing member of the publisher's own.
type Member struct {
	Name string
	Keys []*cosign.Key // one of each algorithm, with one name
}

// ForMembers writes the policy of a publisher's own members, of which need must have cosigned: the group
// "durability", in which each member is a group of its keys, any of which is enough. So it counts once, and one
// that has lost the use of an algorithm still counts.
func ForMembers(need int, members []Member) (*Policy, error) {
	var text strings.Builder
	var groups []string
	cosigners := map[string]string{}
	for _, m := range members {
		if len(m.Keys) == 0 {
			return nil, fmt.Errorf("policy: the member %s has no key", m.Name)
		}
		name := m.Keys[0].Name()
		if other, ok := cosigners[name]; ok {
			return nil, fmt.Errorf("policy: the members %s and %s have keys of one name, %s: give each its own", other, m.Name, name)
		}
		cosigners[name] = m.Name
		var witnesses []string
		for _, k := range m.Keys {
			if k.Name() != name {
				return nil, fmt.Errorf("policy: the member %s has keys of two names, %s and %s: the keys of one cosigner have one", m.Name, name, k.Name())
			}
			w := m.Name + "/" + strings.ToLower(k.Algorithm().String())
			fmt.Fprintf(&text, "witness %s %s\n", w, k)
			witnesses = append(witnesses, w)
		}
		groups = append(groups, m.Name)
		fmt.Fprintf(&text, "group %s any %s\n", m.Name, strings.Join(witnesses, " "))
	}
	fmt.Fprintf(&text, "group %s %d %s\nquorum %[1]s\n", Durability, need, strings.Join(groups, " "))
	p, err := Parse([]byte(text.String()))
	if err != nil {
		return nil, fmt.Errorf("writing the policy of %d members, of which %d must cosign: %w", len(members), need, err)
	}
	return p, nil
}
